//! What is generated from the code is taken by those it is for.

use std::process::Command;

use crate::injector::Desk;

#[test]
fn the_schema_is_json_schema_of_the_language() {
    let said = Desk::new().injector(&["schema"]);
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""));
    let schema = said.json();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{said}");
    assert!(schema["required"].as_array().unwrap().contains(&"duration".into()), "{said}");
    for kind in ["network.loss", "network.local-drop"] {
        assert!(said.stdout.contains(&format!("\"{kind}\"")), "{kind} is not in the schema");
    }
}

#[test]
fn completions_for_every_shell_name_every_flag() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = desk.injector(&["completions", shell]);
        assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["force-unsafe-target", "apply", "clean"] {
            assert!(said.stdout.contains(word), "{word} is not in the completions of {shell}");
        }
    }
    let unknown = desk.injector(&["completions", "tcsh"]);
    assert_eq!(unknown.status, Some(2), "{unknown}");
    assert!(unknown.stderr.contains("invalid value 'tcsh'"), "{unknown}");
}

#[test]
fn bash_takes_its_completions_and_completes_a_command() {
    let desk = Desk::new();
    desk.write("completions", &desk.injector(&["completions", "bash"]).stdout);
    let script = "set -u; source completions; COMP_WORDS=(injector ap); COMP_CWORD=1; \
                  _injector injector ap injector; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash").args(["--norc", "-c", script]).current_dir(desk.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&bash.stderr);
    assert_eq!(String::from_utf8_lossy(&bash.stdout).trim(), "apply", "{errors}");
}

#[test]
fn the_manual_is_one_page_or_a_directory_of_them() {
    let desk = Desk::new();
    let page = desk.injector(&["man"]);
    assert_eq!((page.status, page.stderr.as_str()), (Some(0), ""));
    assert!(page.stdout.contains("\n.TH injector 1"), "{page}");
    assert!(page.stdout.contains("Exit status: 0 done"), "{page}");

    let written = desk.injector(&["man", "pages"]);
    assert_eq!(written.to_string(), "status: 0\n---- stdout\n---- stderr\n");
    for name in ["injector.1", "injector-apply.1", "injector-run.1", "injector-clean.1"] {
        let text = std::fs::read_to_string(desk.path().join("pages").join(name)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{name}: {text}");
    }

    desk.write("file", "");
    let refused = desk.injector(&["man", "file/pages"]);
    assert_eq!(refused.status, Some(1), "{refused}");
    assert!(refused.stderr.contains("file/pages can't be made"), "{refused}");
}
