use super::*;
use crate::plan::World;
use crate::plan::operations::notified;
use crate::scenario::{Overrides, Source, load};

/// A call that nobody makes.
struct Made {
    name: &'static str,
    path: &'static str,
    asked: Option<u64>,
}

struct File(Vec<Vec<u8>>);

impl Seen for File {
    fn kind(&self) -> u32 {
        8
    }
    fn device(&self) -> u32 {
        0x80_0001
    }
    fn magic(&self) -> u32 {
        0xef53
    }
    fn paths(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl Sight for Made {
    fn call(&self) -> (u32, [u64; 6]) {
        (self.name.parse::<syscalls::Sysno>().unwrap().id().cast_unsigned(), [0; 6])
    }
    fn look(&self, deed: &Deed) -> Option<Box<dyn Seen>> {
        // It is no socket.
        let is_done = ![border::SEND, border::RECV].contains(&deed.operation);
        is_done.then(|| Box::new(File(vec![self.path.as_bytes().to_vec()])) as Box<dyn Seen>)
    }
    fn asked(&self) -> Option<u64> {
        self.asked
    }
}

fn rules(faults: &str) -> Rules {
    let text = format!("duration = \"1m\"\nseed = 7\n[target.t]\ncommand = true\n{faults}");
    let scenario = load(&Source::text("t.toml", text), &Overrides::default())
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let all = (0..scenario.faults.len()).collect();
    let world = World { notified: all, ..World::default() };
    Rules::new(notified::rules(&scenario, 7, &world).unwrap())
}

fn fault(keys: &str) -> String {
    format!("[[fault]]\ntarget = \"t\"\nfallback = \"seccomp\"\n{keys}\n")
}

fn made(name: &'static str) -> Made {
    Made { name, path: "/data/file", asked: None }
}

fn counted(rules: &Rules, position: usize) -> (u64, u64) {
    let all: Vec<Counters> = rules.counters(position).collect();
    assert_eq!(all.len(), 1);
    (all[0].matched, all[0].injected)
}

#[test]
fn what_is_meant_is_struck_and_counted() {
    let keys = "kind = \"io.error\"\noperations = [\"write\", \"fsync\"]\nerrno = \"ENOSPC\"\n";
    let rules = rules(&fault(&format!(
        "{keys}path = \"/data/*\"\nfile_type = \"regular\"\ndevice = \"8:1\"\nfilesystem = \"ext4\"\nnth = \"2\""
    )));
    let errno = |made: &Made| rules.decide(made, 0).errno;
    assert_eq!(errno(&Made { path: "/other", ..made("write") }), 0);
    assert_eq!(errno(&made("read")), 0);
    assert_eq!([errno(&made("write")), errno(&made("fsync")), errno(&made("write"))], [0, 28, 0]);
    assert_eq!(counted(&rules, 0), (3, 1));
    let others = ["device = \"8:2\"", "filesystem = \"xfs\"", "file_type = \"fifo\""];
    for other in others {
        let rules = self::rules(&fault(&format!("{keys}{other}")));
        assert_eq!(rules.decide(&made("write"), 0).errno, 0, "{other}");
    }
}

#[test]
fn the_first_error_ends_it_and_delays_add_up() {
    let delay = |ms| format!("kind = \"io.delay\"\noperations = \"write\"\ndelay = \"{ms}ms\"");
    let error = "kind = \"io.error\"\noperations = \"write\"\nerrno = 5";
    let both = [fault(&delay(10)), fault(&delay(20)), fault(error), fault(&delay(40))].concat();
    let rules = rules(&both);
    let fate = rules.decide(&made("write"), 0);
    assert_eq!((fate.delay_ns, fate.errno), (30_000_000, 5));
    assert_eq!((0..4).map(|n| counted(&rules, n).1).collect::<Vec<_>>(), [1, 1, 1, 0]);
}

#[test]
fn system_calls_are_known_by_their_names() {
    let keys = "kind = \"syscall.error\"\nsyscalls = [\"fsync\", \"getpid\"]\nerrno = \"EPERM\"\nlimit = 2";
    let rules = rules(&fault(keys));
    let errno = |name| rules.decide(&made(name), 0).errno;
    assert_eq!(["getpid", "read", "fsync", "fsync"].map(errno), [1, 0, 1, 0]);
    assert_eq!(counted(&rules, 0), (3, 2));
}

#[test]
fn what_would_not_become_shorter_is_not_counted() {
    let rules = rules(
        &[fault("kind = \"io.short\"\nbytes = \"4B\""), fault("kind = \"io.short\"\nfraction = \"50%\"")]
            .concat(),
    );
    let moves = |name, asked| rules.decide(&Made { asked, ..made(name) }, 0).moves;
    assert_eq!(moves("read", Some(100)), Some(4));
    assert_eq!(moves("write", Some(6)), Some(3));
    assert_eq!(moves("write", Some(4)), Some(2));
    assert_eq!(moves("write", Some(1)), None);
    assert_eq!(moves("write", None), None, "it has bounds of its own");
    assert_eq!((counted(&rules, 0), counted(&rules, 1)), ((2, 2), (3, 3)));
}

#[test]
fn windows_and_seeds_are_those_of_the_kernel_half() {
    let keys = "kind = \"io.error\"\noperations = \"write\"\nprobability = \"30%\"";
    let struck = |id: &str| {
        let rules = rules(&fault(&format!("{keys}\nid = \"{id}\"")));
        (0..200).map(|_| rules.decide(&made("write"), 0).errno != 0).collect::<Vec<_>>()
    };
    assert_eq!(struck("a"), struck("a"));
    assert_ne!(struck("a"), struck("b"));
    // The draws of the decision itself.
    let stream = draw::stream(7, draw::fault_number(b"a"), draw::PURPOSE_STRIKE);
    let class = border::packet(border::WRITE as u16).class(injector_common::rule::OPERATION);
    let p32 = (0.3 * 4_294_967_296.0_f64).round() as u64;
    let expected: Vec<bool> = (0..200).map(|n| draw::chance(draw::draw(stream, class, n), p32)).collect();
    assert_eq!(struck("a"), expected);
    let window = rules(&fault("kind = \"io.error\"\noperations = \"write\"\nwhen = { start = \"1s\" }"));
    assert_eq!(window.decide(&made("write"), 999_999_999).errno, 0);
    assert_eq!(window.decide(&made("write"), 1_000_000_000).errno, 5);
    assert_eq!(counted(&window, 0), (1, 1));
}

#[test]
fn a_disk_that_is_full_stays_so_until_room_is_made() {
    let rules = rules(&fault(
        "kind = \"io.error\"\noperations = \"write\"\nerrno = \"ENOSPC\"\nnth = \"2\"\nfrees = true",
    ));
    let errno = |name| rules.decide(&made(name), 0).errno;
    let calls = ["write", "write", "write", "unlink", "write", "write"];
    assert_eq!(calls.map(errno), [0, 28, 28, 0, 0, 28]);
}

#[test]
fn who_follows_another_one_strikes_from_its_first_strike_on() {
    let error = "kind = \"io.error\"\noperations = \"fsync\"";
    let on = "when = { on = { kind = \"io\", operations = \"write\", count = 2, fallback = \"seccomp\" }, start = \"1s\" }";
    let last = "kind = \"syscall.error\"\nsyscalls = \"getpid\"\nerrno = \"EPERM\"\nwhen = { after = \"io.error-1\" }";
    let rules = rules(&[fault(&format!("{error}\n{on}")), fault(last)].concat());
    let errno = |name, at_ms: u64| rules.decide(&made(name), at_ms * 1_000_000).errno;
    let calls = [("write", 0), ("fsync", 5000), ("getpid", 5000), ("write", 6000), ("fsync", 6999)];
    assert_eq!(calls.map(|(name, at)| errno(name, at)), [0; 5]);
    assert_eq!(errno("getpid", 7000), 0, "the fault that it follows has not struck");
    assert_eq!([("fsync", 7000), ("getpid", 7000)].map(|(name, at)| errno(name, at)), [5, 1]);
    assert_eq!((counted(&rules, 0), counted(&rules, 1), counted(&rules, 2)), ((2, 1), (1, 1), (1, 1)));
}
