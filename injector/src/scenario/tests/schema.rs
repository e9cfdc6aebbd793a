use serde_json::Value;

use super::super::schema;
use crate::kinds::KINDS;

#[test]
fn the_schema_has_every_kind_with_its_own_keys() {
    let schema = serde_json::to_value(schema()).unwrap();
    let faults = schema["properties"]["fault"]["items"]["oneOf"].as_array().unwrap();
    assert_eq!(faults.len(), KINDS.len());
    for (fault, kind) in faults.iter().zip(KINDS) {
        assert_eq!(fault["properties"]["kind"]["const"], kind.name());
        for key in kind.keys() {
            assert!(fault["properties"][key.name]["description"].is_string(), "{} {}", kind.name(), key.name);
        }
    }
}

#[test]
fn the_schema_refuses_unknown_keys_and_names_the_mandatory_ones() {
    let schema = serde_json::to_value(schema()).unwrap();
    assert_eq!(schema["additionalProperties"], Value::Bool(false));
    assert_eq!(schema["required"], serde_json::json!(["duration"]));
    let target = &schema["properties"]["target"]["additionalProperties"];
    assert_eq!(target["oneOf"][2], serde_json::json!({ "required": ["interface"] }));
    assert_eq!(
        target["dependentRequired"],
        serde_json::json!({ "hook": ["interface"], "spare": ["interface"] })
    );
    assert_eq!(schema["$defs"]["MatchTable"]["additionalProperties"], Value::Bool(false));
    // `not` is a match again, so the schema refers to itself.
    assert_eq!(schema["$defs"]["MatchTable"]["properties"]["not"]["$ref"], "#/$defs/MatchTable");
}

#[test]
fn the_schema_is_as_reviewed() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema()).unwrap());
}
