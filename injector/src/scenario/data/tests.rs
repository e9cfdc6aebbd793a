//! Data files from outside: what they mean, and what is said about wrong ones.

use std::fs;

use tempfile::TempDir;

use super::{Point, Profile, Trace};
use crate::scenario::{Capacity, Effect, Overrides, P32, Source, Times, load};

/// Loads a scenario with one fault that names the file `data` with this content, which lies beside it.
fn effect(keys: &str, data: &[u8]) -> Result<Effect, String> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("data"), data).unwrap();
    let text = format!("duration = \"1s\"\n[target.t]\ncgroup = \"/t\"\n[[fault]]\ntarget = \"t\"\n{keys}\n");
    let file = folder.path().join("x.toml");
    fs::write(&file, text).unwrap();
    match load(&Source::file(&file), &Overrides::default()) {
        Ok(scenario) => Ok(scenario.faults[0].effect.clone()),
        Err(errors) => Err(errors.render(false).replace(&format!("{}/", folder.path().display()), "")),
    }
}

fn profile(data: &str) -> Result<Profile, String> {
    match effect("kind = \"network.delay\"\nprofile = \"data\"", data.as_bytes())? {
        Effect::Delay(delay) => match delay.times {
            Times::Measured(profile) => Ok((*profile).clone()),
            other @ Times::Spread { .. } => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn trace(data: &str) -> Result<Trace, String> {
    match effect("kind = \"network.rate\"\ntrace = \"data\"", data.as_bytes())? {
        Effect::Rate(rate) => match rate.capacity {
            Capacity::Trace(trace) => Ok((*trace).clone()),
            other @ Capacity::Constant { .. } => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn point(delay_ns: u64, share: f64) -> Point {
    Point { delay_ns, probability: P32((share * 4_294_967_296.0) as u64) }
}

#[test]
fn a_distribution_function_is_read_in_all_its_forms() {
    let expected = Profile::Points(vec![point(350_000, 0.5), point(1_200_000, 0.75), point(90_000_000, 1.0)]);
    for text in [
        "delay_ms,cumulative_probability\n0.35,0.5\n1.2,0.75\n90,1\n",
        "# measured on Monday\n\ndelay_us, cumulative_probability # as it came\n350, 50%\n1.2e3,75 %\n90000.0,100%",
        "\u{feff}delay_s,cumulative_probability\r\n0.00035,0.5\r\n0.0012,0.75\r\n0.09,1.0\r\n",
        "0.35ms,0.5\n1200us,75%\n  90 ms , 1\n",
    ] {
        assert_eq!(profile(text), Ok(expected.clone()), "{text}");
    }
}

#[test]
fn one_column_is_samples_in_any_order() {
    let expected = Profile::Samples(vec![0, 1_000_000, 1_000_000, 2_500_000]);
    for text in ["delay_ms\n1\n2.5\n0\n1\n", "1ms\n2500us\n0s\n1ms\n", "delay_ns\n1e6\n2500000.4\n0.2\n1e6"] {
        assert_eq!(profile(text), Ok(expected.clone()), "{text}");
    }
}

#[test]
fn a_trace_has_a_time_on_each_line() {
    let read = trace("# synthetic\n0\n5\n5\n\n20\r\n").unwrap();
    assert_eq!((read.at_ms(), read.period_ms()), (&[0, 5, 5, 20][..], 20));
}

/// Everything that is said about each of these profiles.
#[test]
fn what_is_said_about_a_wrong_profile() {
    let wrong = [
        "",
        "# nothing\n",
        "0.35,0.5\n",
        "12\n",
        "delay,cumulative_probability\n1,1\n",
        "delay_msec,cumulative_probability\n1,1\n",
        "delay_ms,probability\n1,1\n",
        "delay_ms,cumulative_probability,n\n1,1,4\n",
        "delay_ms,cumulative_probability\n1\n",
        "delay_ms\n1\n2,0.5\n",
        "delay_ms,cumulative_probability\n1,0.5\n2,0.6,7\n",
        "delay_ms,cumulative_probability\n2,0.5\n1,1\n",
        "delay_ms,cumulative_probability\n1,50%\n2,40%\n",
        "delay_ms,cumulative_probability\n1,0.5\n2,0.999\n",
        "delay_ms,cumulative_probability\n1,50\n2,100\n",
        "delay_ms,cumulative_probability\n1,-0.1\n2,1\n",
        "delay_ms,cumulative_probability\n1,nan\n",
        "delay_ms\n1.2ms\n",
        "delay_ms\nnan\n",
        "delay_ms\ninf\n",
        "delay_ms\n-3\n",
        "delay_ms\n1e400\n",
        "delay_ms\n3600001\n",
        "2h\n",
        "5 parsecs\n",
        "nan\n",
        "1;0.5\n",
        "0ms\n",
    ];
    let said = wrong.map(|text| format!("{text:?}\n{}", profile(text).unwrap_err()));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn what_is_said_about_a_wrong_trace() {
    let wrong = [
        "",
        "\n#\n",
        "0\n0\n",
        "5\n4\n",
        "1\n2.5\n",
        "1ms\n",
        "-1\n",
        "+1\n",
        "1 2\n",
        "4294967296\n",
        "NaN\n",
    ];
    let said = wrong.map(|text| format!("{text:?}\n{}", trace(text).unwrap_err()));
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn files_that_are_none_of_numbers_are_refused() {
    let trace = |data: &[u8]| effect("kind = \"network.rate\"\ntrace = \"data\"", data).unwrap_err();
    assert!(trace(b"1\n\xff\n").contains("data is not text: no UTF-8 at byte 2"));
    assert!(trace(&b"1\n".repeat(1_000_001)).contains("data has more than 1000000 lines"));
    assert!(trace(&[b'1'; 300]).contains("data has a line of more than 256 bytes, number 1"));
    assert!(trace(&vec![b'#'; (16 << 20) + 1]).contains("data is longer than 16777216 bytes"));
    for (path, problem) in [
        ("none.csv", "none.csv cannot be read: ENOENT (No such file or directory)"),
        (".", "is not a regular file"),
        ("/dev/zero", "/dev/zero is not a regular file"),
    ] {
        let said = effect(&format!("kind = \"network.delay\"\nprofile = \"{path}\""), b"").unwrap_err();
        assert!(said.contains(problem), "{said}");
    }
}

#[test]
fn the_longest_files_are_read() {
    let lines = (1..=1_000_000).map(|n| format!("{n}\n")).collect::<Vec<String>>().concat();
    assert_eq!(trace(&lines).unwrap().at_ms().len(), 1_000_000);
}

#[test]
fn a_path_on_the_command_line_begins_in_the_working_directory() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("x.toml");
    let text = "duration = \"1s\"\n[target.t]\ncgroup = \"/t\"\n[[fault]]\nid = \"a\"\ntarget = \"t\"\n\
                kind = \"network.delay\"\nprofile = \"rtt.csv\"\n";
    fs::write(&file, text).unwrap();
    fs::write(folder.path().join("rtt.csv"), "1ms\n").unwrap();
    assert!(load(&Source::file(&file), &Overrides::default()).is_ok());
    let set = |path: &str| {
        let set = vec![format!("fault.a.profile={path}")];
        load(&Source::file(&file), &Overrides { set, ..Overrides::default() })
            .map_err(|errors| errors.render(false))
    };
    let said = set("no-such.csv").unwrap_err();
    assert!(said.contains("no-such.csv cannot be read: ENOENT"), "{said}");
    assert!(!said.contains(folder.path().to_str().unwrap()), "{said}");
    assert!(said.contains("in the working directory"), "{said}");
    assert!(set(folder.path().join("rtt.csv").to_str().unwrap()).is_ok());
}
