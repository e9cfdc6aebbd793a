use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{KINDS, find};
use crate::scenario::{Overrides, Scenario, Source, load};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every scenario file of the repository.
fn scenario_files() -> Vec<PathBuf> {
    files_below("scenarios", |ending| ending == "toml")
}

/// Every file below a folder of the repository whose name ends in such a way.
fn files_below(folder: &str, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().and_then(|ending| ending.to_str()).is_some_and(&is_meant) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn check(path: &Path) -> Scenario {
    load(&Source::file(path), &Overrides::default())
        .unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

#[test]
fn every_scenario_file_is_right_and_named_as_its_file() {
    let files = scenario_files();
    assert!(!files.is_empty());
    for path in files {
        let scenario = check(&path);
        assert_eq!(scenario.name, path.file_stem().unwrap().to_str().unwrap());
        assert!(scenario.seed.is_some(), "{}: a published scenario can be repeated", path.display());
        assert!(!scenario.expectations.is_empty(), "{}: it proves what it did", path.display());
    }
}

#[test]
fn every_data_file_is_named_by_a_scenario_beside_it_and_says_what_it_is() {
    for file in files_below("scenarios", |ending| ending != "toml") {
        let name = file.file_name().unwrap().to_str().unwrap();
        let is_named = |scenario: &PathBuf| {
            let text = fs::read_to_string(scenario).unwrap();
            let is_beside = scenario.parent() == file.parent() && text.contains(&format!("\"{name}\""));
            // A program that is struck is named by its path, from wherever.
            is_beside || text.contains(&format!("scenarios/examples/{name}"))
        };
        assert!(scenario_files().iter().any(is_named), "{}: nobody uses it", file.display());
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with('#'), "{}: whose numbers are these?", file.display());
    }
}

#[test]
fn every_kind_has_a_scenario_that_uses_it() {
    let used: BTreeSet<&str> = scenario_files()
        .iter()
        .flat_map(|path| check(path).faults)
        .map(|fault| fault.effect.kind())
        .collect();
    let known: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name()).collect();
    assert_eq!(used, known);
}

#[test]
fn every_kind_has_a_page_that_documents_each_of_its_keys() {
    for kind in KINDS {
        let path = repository().join(kind.docs_page());
        let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            page.starts_with(&format!("# `{}`\n\n{}\n", kind.name(), kind.summary())),
            "{}",
            path.display()
        );
        assert!(page.contains("## What it does not do"), "{}", path.display());
        for key in kind.keys() {
            assert!(
                page.contains(&format!("| `{}` |", key.name)),
                "{} has no `{}`",
                path.display(),
                key.name
            );
        }
    }
}

#[test]
fn a_name_is_one_kind() {
    let mut names = BTreeSet::new();
    for name in KINDS.iter().map(|kind| kind.name()) {
        assert!(names.insert(name), "{name} twice");
    }
    for kind in KINDS {
        assert_eq!(find(kind.name()).map(super::Kind::name), Some(kind.name()));
    }
}

#[test]
fn the_language_page_names_every_key() {
    let page = fs::read_to_string(repository().join("docs/scenario.md")).unwrap();
    let schema = serde_json::to_value(crate::scenario::schema()).unwrap();
    let fault = &schema["properties"]["fault"]["items"]["oneOf"][1];
    assert_eq!(fault["properties"]["kind"]["const"], "network.local-drop", "a kind without own keys");
    let tables = schema["$defs"].as_object().unwrap().values().chain([&schema, fault]);
    let target = &schema["properties"]["target"]["additionalProperties"];
    for key in tables.chain([target]).flat_map(|table| table["properties"].as_object().unwrap().keys()) {
        assert!(page.contains(&format!("`{key}`")), "docs/scenario.md has no `{key}`");
    }
    for kind in KINDS {
        assert!(
            page.contains(&format!("(kinds/{}.md)", kind.name())),
            "docs/scenario.md has no {}",
            kind.name()
        );
    }
}
