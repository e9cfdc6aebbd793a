use super::*;
use crate::host::process::ProcessId;
use crate::journal::Store;

pub(in crate::journal) fn header(id: &str) -> Header {
    Header {
        version: VERSION,
        id: id.to_owned(),
        name: format!("name of {id}"),
        controller: ProcessId { pid: 1, start_ticks: 0 },
        boot_id: crate::host::facts::boot_id().unwrap(),
        started: jiff::Timestamp::UNIX_EPOCH,
        deadline: jiff::Timestamp::UNIX_EPOCH,
        targets: Vec::new(),
    }
}

fn entry(name: &str) -> Entry {
    Entry::CgroupMade { path: format!("/{name}"), id: Some(7) }
}

/// A journal of two entries, the first of them undone, as bytes.
fn bytes() -> Vec<u8> {
    let base = tempfile::tempdir().unwrap();
    let mut journal = Store::open(base.path()).unwrap().register(header("x")).unwrap();
    assert_eq!(journal.append(entry("a")).unwrap(), 0);
    assert_eq!(journal.append(entry("b")).unwrap(), 1);
    journal.undone(0).unwrap();
    fs::read(base.path().join("x").join(FILE_NAME)).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let contents = parse(&bytes(), Path::new("x")).unwrap();
    assert_eq!(contents.header, header("x"));
    let expected =
        [Recorded { entry: entry("a"), undone: true }, Recorded { entry: entry("b"), undone: false }];
    assert_eq!(contents.entries, expected);
    assert!(!contents.torn);
}

#[test]
fn a_journal_cut_anywhere_is_read_up_to_the_cut() {
    let bytes = bytes();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for cut in 0..bytes.len() {
        let whole = lines
            .iter()
            .scan(0, |end, line| {
                *end += line.len();
                Some(*end)
            })
            .filter(|end| *end <= cut)
            .count();
        match parse(&bytes[..cut], Path::new("x")) {
            Err(JournalError::NoHeader { .. }) => assert_eq!(whole, 0, "cut at {cut}"),
            Ok(contents) => {
                assert_eq!(contents.entries.len(), (whole - 1).min(2), "cut at {cut}");
                let at_line_end = bytes[..cut].ends_with(b"\n");
                assert_eq!(contents.torn, !at_line_end, "cut at {cut}");
            }
            Err(error) => unreachable!("cut at {cut}: {error}"),
        }
    }
}

#[test]
fn zeros_at_the_end_are_torn_but_in_the_middle_are_damage() {
    let mut zeros = bytes();
    let len = zeros.len();
    zeros[len - 10..len - 1].fill(0);
    assert!(parse(&zeros, Path::new("x")).unwrap().torn);
    zeros.extend(b"{\"line\":\"undone\",\"index\":1}\n");
    let error = parse(&zeros, Path::new("x")).unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { line: 4, .. }), "{error:?}");
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    let text = b"{\"line\":\"header\",\"header\":{\"version\":99,\"other\":true}}\n";
    let error = parse(text, Path::new("x")).unwrap_err();
    assert!(matches!(error, JournalError::Version { version: 99, .. }), "{error:?}");
}

#[test]
fn a_torn_journal_goes_on_after_its_last_whole_line() {
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path()).unwrap();
    let mut journal = store.register(header("x")).unwrap();
    journal.append(entry("a")).unwrap();
    let path = journal.directory().join(FILE_NAME);
    drop(journal);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"line\":\"ma").unwrap();
    let (directory, lock) = store.claim_dead().unwrap().remove(0);
    let mut journal = Journal::take_over(&directory, lock).unwrap();
    journal.append(entry("b")).unwrap();
    let contents = read(&path).unwrap();
    assert_eq!((contents.entries.len(), contents.torn), (2, false));
}

#[test]
fn closing_with_something_left_keeps_the_journal() {
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path()).unwrap();
    let mut journal = store.register(header("x")).unwrap();
    journal.append(entry("a")).unwrap();
    let error = journal.close().unwrap_err();
    assert!(matches!(error, JournalError::Outstanding { count: 1, .. }), "{error:?}");
    assert!(base.path().join("x").join(FILE_NAME).exists());
}

#[test]
fn closing_with_nothing_left_removes_it() {
    let base = tempfile::tempdir().unwrap();
    let mut journal = Store::open(base.path()).unwrap().register(header("x")).unwrap();
    let index = journal.append(entry("a")).unwrap();
    journal.undone(index).unwrap();
    journal.close().unwrap();
    assert!(!base.path().join("x").exists());
}

/// A full disk is made for real: a tmpfs of four pages, in a mount namespace of this thread alone.
#[test]
fn a_full_disk_adds_nothing_and_breaks_nothing() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().to_owned();
    std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let unshared = unshare(CloneFlags::CLONE_NEWNS);
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(unshared, Err(nix::errno::Errno::EPERM), "skipped: no mount namespace without root");
            return;
        }
        unshared.unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, &path, Some("tmpfs"), MsFlags::empty(), Some("size=16k,mode=0700")).unwrap();
        fill_and_recover(&path);
    })
    .join()
    .unwrap();
}

fn fill_and_recover(base: &Path) {
    let store = Store::open(base).unwrap();
    let mut journal = store.register(header("x")).unwrap();
    journal.append(entry("a")).unwrap();
    let filler = base.join("filler");
    let full = File::create(&filler).unwrap().write_all(&vec![1; 1 << 16]).unwrap_err();
    assert_eq!(errno_of(&full), nix::errno::Errno::ENOSPC);

    // The page that the journal has begun still takes some lines; then one does not fit, or in part only.
    let error = (0..1000).find_map(|_| journal.append(entry("b")).err()).unwrap();
    assert!(error.to_string().contains("ENOSPC"), "{error}");
    assert!(error.hint().unwrap().contains("make room"));
    let before = read(&journal.directory().join(FILE_NAME)).unwrap();
    assert!(!before.torn, "the part of a line was cut off again");
    assert_eq!(before.entries, journal.entries());
    let error = store.register(header("y")).unwrap_err();
    assert!(error.to_string().contains("ENOSPC"), "{error}");
    assert!(!base.join("y").exists());

    fs::remove_file(&filler).unwrap();
    journal.append(entry("c")).unwrap();
    let after = read(&journal.directory().join(FILE_NAME)).unwrap();
    assert_eq!(after.entries.len(), before.entries.len() + 1);
    assert_eq!(after.entries.last().unwrap().entry, entry("c"));
}

/// An ifb to which a filter sends packets, in a namespace that is gone: nothing is there to be taken back.
#[test]
fn an_ifb_stays_as_long_as_a_filter_leads_to_it() {
    let netns = crate::host::netns::NetnsId { dev: 0, inode: 0, cookie: 1 };
    let elsewhere = crate::host::netns::NetnsId { dev: 0, inode: 0, cookie: 2 };
    let redirect = |netns, ifb: &str| Entry::Redirect {
        netns,
        ifindex: 2,
        ifname: "eth0".to_owned(),
        pref: 1,
        handle: 1,
        ifb: ifb.to_owned(),
    };
    let base = tempfile::tempdir().unwrap();
    let mut journal = Store::open(base.path()).unwrap().register(header("x")).unwrap();
    let entries = [
        Entry::IfbMade { netns, ifname: "ifb0".to_owned() },
        redirect(netns, "ifb0"),
        Entry::IfbMade { netns, ifname: "ifb1".to_owned() },
        redirect(elsewhere, "ifb1"),
    ];
    for entry in entries {
        journal.append(entry).unwrap();
    }
    let mut undo = |index| journal.undo(index).map(|outcome| outcome.result);
    assert!(matches!(undo(0), Some(Err(UndoError::InUse))), "a filter leads to it");
    assert!(matches!(undo(2), Some(Ok(Undone::AlreadyGone))), "none does in its namespace");
    assert!(matches!(undo(1), Some(Ok(Undone::AlreadyGone))));
    assert!(matches!(undo(0), Some(Ok(Undone::AlreadyGone))), "the filter is gone");
    assert!(undo(0).is_none(), "it is taken back once");
}
