use proptest::prelude::*;

use super::super::{Overrides, Source, load};
use super::{read, with_fault};

/// Every error must lie within its text, whatever the text is.
fn check(result: Result<super::Scenario, super::Diagnostics>) {
    if let Err(errors) = result {
        assert!(!errors.0.is_empty());
        for error in &errors.0 {
            if let Some(source) = &error.source {
                assert!(source.text.get(error.span.clone()).is_some(), "{error:?}");
                assert!(error.position().is_some());
            }
        }
        assert!(!errors.render(false).is_empty());
        assert_eq!(errors.to_json().as_array().map(Vec::len), Some(errors.0.len()));
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        check(read(&text));
    }

    #[test]
    fn arbitrary_lines_in_a_fault_never_panic(
        key in "probability|nth|limit|budget|when|match|model|p|up|down|per|id|not",
        value in "-?[0-9]{1,30}|\"[ -!#-\\[\\]-~µé]{0,12}\"|\\[[0-9,]{0,9}\\]|\\{ (start|remote|nth) = [0-9]{1,9} \\}|true|1e9|nan|0x[0-9a-f]{1,20}",
    ) {
        check(read(&with_fault(&format!("{key} = {value}"))));
    }

    #[test]
    fn arbitrary_flags_never_panic(
        fault in "(network.loss)?[=:]{0,2}[ -~µ]{0,30}",
        assignment in "(fault.wan|target.db|duration|peers.a)?[.=]?[ -~µ]{0,30}",
    ) {
        let overrides = Overrides { inline: vec![fault], set: vec![assignment], ..Overrides::default() };
        check(load(&Source::text("scenario.toml", with_fault("id = \"wan\"")), &overrides));
        check(load(&Source::inline(), &overrides));
    }
}
