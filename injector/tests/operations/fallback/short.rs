//! Reads and writes that move less than was asked for.

use super::{falls_back, fault, run, run_python};
use crate::victim::Folder;

#[test]
fn reads_and_writes_say_how_much_they_have_moved() {
    let folder = Folder::new();
    std::fs::write(folder.at("file"), "0123456789").unwrap();
    let keys = format!("kind = \"io.short\"\nbytes = \"3B\"\npath = \"{}\"", folder.at("*"));
    if !falls_back(&fault(&keys)) {
        return;
    }
    let script = r#"
import os, sys
at = lambda name: os.path.join(sys.argv[1], name)
file, new = os.open(at("file"), os.O_RDONLY), os.open(at("new"), os.O_RDWR | os.O_CREAT | os.O_APPEND)
print(os.read(file, 8), os.read(file, 2), os.read(file, 100), os.pread(file, 5, 6))
one, two = bytearray(2), bytearray(6)
print(os.preadv(file, [one, two], 1), one, two)
print(os.write(new, b"abcdef"), os.write(new, b"gh"), os.writev(new, [b"i", b"jk", b"lm"]), os.pread(new, 3, 0))
"#;
    let ran = run_python(&fault(&keys), script, &[folder.path().to_str().unwrap()]);
    let expected = "b'012' b'34' b'567' b'678'\n3 bytearray(b'12') bytearray(b'3\\x00\\x00\\x00\\x00\\x00')\n3 2 3 b'abc'\n";
    assert_eq!(ran.said, expected);
    // Those that asked for more than three bytes.
    assert_eq!(ran.counted(), (6, 6));
    assert_eq!(std::fs::read_to_string(folder.at("new")).unwrap(), "abcghijk");
    assert_eq!(
        ran.mechanism(),
        "seccomp read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2"
    );
}

#[test]
fn programs_that_go_on_where_they_were_copy_everything() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    std::fs::write(folder.at("from"), &content).unwrap();
    let keys = format!("kind = \"io.short\"\nfraction = \"30%\"\npath = \"{}\"", folder.at("*"));
    if !falls_back(&fault(&keys)) {
        return;
    }
    let (from, to) = (folder.at("from"), folder.at("to"));
    for command in [
        &["dd", &format!("if={from}"), &format!("of={to}"), "bs=64k", "iflag=fullblock", "status=none"][..],
        // By read and write, where it may as well copy in the kernel.
        &["cp", "--reflink=never", "--sparse=always", &from, &to],
        &["sh", "-c", &format!("cat {from} | cat > {to}")],
    ] {
        let ran = run(&fault(&keys), command);
        assert_eq!(ran.status, Some(0), "{command:?}");
        assert!(std::fs::read(&to).unwrap() == content, "{command:?}");
        let (matched, injected) = ran.counted();
        assert!(matched > 4 && matched == injected, "{command:?}: {matched}");
        std::fs::remove_file(&to).unwrap();
    }
}

#[test]
fn pipes_wait_as_ever_and_break_as_ever() {
    let keys = "kind = \"io.short\"\nbytes = \"2B\"\nfile_type = \"fifo\"";
    if !falls_back(&fault(keys)) {
        return;
    }
    let folder = Folder::new();
    // Its own words go to a file: of a pipe Python without a buffer loses what was not written at once.
    let script = r#"
import os, signal, sys, threading, time
sys.stdout = open(sys.argv[1], "w")
reader, writer = os.pipe()
threading.Timer(0.3, lambda: os.write(writer, b"abcdef")).start()
begun = time.monotonic()
print(os.read(reader, 10), time.monotonic() - begun >= 0.3)
time.sleep(0.1)
os.set_blocking(reader, False)
try:
    os.read(reader, 10)
except BlockingIOError:
    print("nothing")
os.set_blocking(reader, True)
# A signal comes while nobody has written anything: its handler runs at once.
def handler(number, frame):
    print("signal", time.monotonic() - begun < 2, flush=True)
    os.write(writer, b"12")
signal.signal(signal.SIGALRM, handler)
begun = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 0.3)
print(os.read(reader, 10))
os.close(reader)
signal.signal(signal.SIGPIPE, lambda number, frame: print("SIGPIPE", flush=True))
try:
    os.write(writer, b"abcdef")
except BrokenPipeError:
    print("broken")
"#;
    let ran = run_python(&fault(keys), script, &[&folder.at("said")]);
    let expected = "b'ab' True\nnothing\nsignal True\nb'12'\nSIGPIPE\nbroken\n";
    // The write of six bytes has moved two of them.
    assert_eq!(std::fs::read_to_string(folder.at("said")).unwrap(), expected);
    assert_eq!(ran.status, Some(0));
}
