use super::*;

fn cgroup(path: &str) -> Cgroup {
    Cgroup { path: path.to_owned(), id: 0, level: 0 }
}

fn hierarchy(root: &str) -> Hierarchy {
    Hierarchy { mount: "/sys/fs/cgroup/unified".into(), root: root.to_owned(), mode: Mode::Hybrid }
}

#[test]
fn ancestors_go_by_whole_names() {
    assert!(cgroup("/a").is_ancestor_of(&cgroup("/a/b/c")));
    assert!(cgroup("/").is_ancestor_of(&cgroup("/a")));
    assert!(!cgroup("/a").is_ancestor_of(&cgroup("/ab")));
    assert!(!cgroup("/a").is_ancestor_of(&cgroup("/a")));
    assert!(!cgroup("/").is_ancestor_of(&cgroup("/")));
    assert!(cgroup("/a").holds(&cgroup("/a")));
    assert!(!cgroup("/a/b").holds(&cgroup("/a")));
}

#[test]
fn parents() {
    assert_eq!(parent_of("/"), None);
    assert_eq!(parent_of("/a"), Some("/"));
    assert_eq!(parent_of("/a/b"), Some("/a"));
}

#[test]
fn names_are_taken_with_and_without_the_mount() {
    let whole = hierarchy("/");
    for name in ["/app/db", "app/db", "/app//db/", "/sys/fs/cgroup/unified/app/db", "./app/db"] {
        assert_eq!(whole.normalize(name).unwrap(), "/app/db", "{name}");
    }
    assert_eq!(whole.normalize("/").unwrap(), "/");
    assert_eq!(whole.normalize("/sys/fs/cgroup/unified").unwrap(), "/");
    // A path that merely starts like the mount is a group's path.
    assert_eq!(whole.normalize("/sys/fs/cgroup/unified2").unwrap(), "/sys/fs/cgroup/unified2");
    let part = hierarchy("/machine.slice");
    assert_eq!(part.normalize("/sys/fs/cgroup/unified/vm").unwrap(), "/machine.slice/vm");
}

#[test]
fn dots_and_nothing_are_refused() {
    for (name, why) in [("", "empty"), ("/a/../b", "`..`")] {
        let error = hierarchy("/").normalize(name).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn directories_of_a_partial_mount() {
    assert_eq!(hierarchy("/").directory("/a/b"), Path::new("/sys/fs/cgroup/unified/a/b"));
    assert_eq!(hierarchy("/m").directory("/m/b"), Path::new("/sys/fs/cgroup/unified/b"));
    assert_eq!(hierarchy("/m").directory("/m"), Path::new("/sys/fs/cgroup/unified/"));
}

#[test]
fn the_nearest_name() {
    let names = || ["nginx.service", "redis.service", "user.slice"].into_iter().map(str::to_owned);
    assert_eq!(nearest_of("ngnix.service", names()).as_deref(), Some("nginx.service"));
    assert_eq!(nearest_of("zzz", names()), None);
}
