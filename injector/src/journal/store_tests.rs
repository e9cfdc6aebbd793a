use std::os::unix::fs::PermissionsExt as _;

use super::super::file::tests::header;
use super::*;
use crate::journal::{Entry, TargetKey, clean};

fn striking(id: &str, path: &str) -> Header {
    let targets = vec![TargetKey::Cgroup { path: path.to_owned(), id: None }];
    Header { targets, ..header(id) }
}

fn store() -> (tempfile::TempDir, Store) {
    let base = tempfile::tempdir().unwrap();
    let store = Store::open(base.path().join("run")).unwrap();
    (base, store)
}

#[test]
fn nothing_is_made_by_looking() {
    let (_base, store) = store();
    assert!(store.list().unwrap().experiments.is_empty());
    assert!(clean(&store).unwrap().experiments.is_empty());
    assert!(!store.base().exists());
}

#[test]
fn directories_are_private() {
    let (_base, store) = store();
    let journal = store.register(header("x")).unwrap();
    for path in [store.base(), journal.directory()] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn life_is_a_lock_and_not_a_pid() {
    let (_base, store) = store();
    let journal = store.register(header("x")).unwrap();
    let alive =
        |store: &Store| store.list().unwrap().experiments.iter().map(|one| one.alive).collect::<Vec<_>>();
    assert_eq!(alive(&store), [true]);
    // The header's pid 1 lives on: the lock alone counts.
    drop(journal);
    assert_eq!(alive(&store), [false]);
}

#[test]
fn only_the_journal_of_the_dead_is_taken_over() {
    let (_base, store) = store();
    let journal = store.register(header("x")).unwrap();
    assert!(store.take_over("x").unwrap().is_none());
    assert!(store.take_over("y").unwrap().is_none());
    drop(journal);
    let taken = store.take_over("x").unwrap().unwrap();
    // It is somebody's now, so that `clean` leaves it alone.
    assert!(store.list().unwrap().experiments[0].alive);
    assert!(store.take_over("x").unwrap().is_none());
    drop(taken);
    assert!(store.take_over("../x").is_err());
}

#[test]
fn a_second_experiment_on_a_target_is_refused_with_both_names() {
    let (_base, store) = store();
    let _first = store.register(striking("one", "/app")).unwrap();
    let error = store.register(striking("two", "/app/db")).unwrap_err();
    let text = error.to_string();
    for part in ["name of one", "name of two", "(one)", "cgroup /app/db", "cgroup /app"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(error.hint().unwrap(), "wait for it to end, or stop it: `injector stop one`");
    assert!(!store.base().join("two").exists());
    store.register(striking("three", "/other")).unwrap();
}

#[test]
fn the_dead_are_in_nobodys_way() {
    let (_base, store) = store();
    drop(store.register(striking("one", "/app")).unwrap());
    store.register(striking("two", "/app")).unwrap();
}

#[test]
fn an_id_is_taken_once_and_is_a_plain_name() {
    let (_base, store) = store();
    let _journal = store.register(header("x")).unwrap();
    assert!(matches!(store.register(header("x")), Err(JournalError::IdTaken { .. })));
    for id in ["", "..", "a/b", "lock", "a b", &"x".repeat(65)] {
        assert!(matches!(store.register(header(id)), Err(JournalError::BadId { .. })), "{id}");
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(base.path()).unwrap_err();
    assert!(error.to_string().contains("others may write to it"), "{error}");
    let link = base.path().join("link");
    std::os::unix::fs::symlink("/run", &link).unwrap();
    let error = Store::open(&link).unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[test]
fn cleaning_drops_what_died_before_its_header() {
    let (_base, store) = store();
    drop(store.register(header("x")).unwrap());
    fs::write(store.base().join("x").join(FILE_NAME), b"{\"line\":\"hea").unwrap();
    DirBuilder::new().create(store.base().join("y")).unwrap();
    let report = clean(&store).unwrap();
    assert!(report.is_clean());
    assert_eq!(report.experiments.len(), 2);
    assert!(!store.base().join("x").exists() && !store.base().join("y").exists());
}

#[test]
fn cleaning_leaves_the_living_alone() {
    let (_base, store) = store();
    let mut journal = store.register(header("x")).unwrap();
    journal.append(Entry::CgroupMade { path: "/x".to_owned(), id: Some(1) }).unwrap();
    assert!(clean(&store).unwrap().experiments.is_empty());
    assert_eq!(store.list().unwrap().experiments[0].entries.len(), 1);
}

#[test]
fn after_a_reboot_nothing_is_undone() {
    let (_base, store) = store();
    let earlier = Header { boot_id: "another".to_owned(), ..header("x") };
    let mut journal = store.register(earlier).unwrap();
    journal.append(Entry::CgroupMade { path: "/x".to_owned(), id: Some(1) }).unwrap();
    drop(journal);
    let report = clean(&store).unwrap();
    assert!(report.is_clean() && report.experiments[0].rebooted);
    assert!(report.experiments[0].outcomes.is_empty());
    assert!(!store.base().join("x").exists());
}

#[test]
fn a_damaged_journal_is_reported_and_kept() {
    let (_base, store) = store();
    drop(store.register(header("x")).unwrap());
    let path = store.base().join("x").join(FILE_NAME);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}garbage\n{text}")).unwrap();
    assert_eq!(store.list().unwrap().unreadable.len(), 1);
    let report = clean(&store).unwrap();
    assert!(matches!(report.experiments[0].problem, Some(JournalError::Corrupt { line: 2, .. })));
    assert!(path.exists());
}
