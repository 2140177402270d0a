use serde_json::json;

use super::*;

#[test]
fn settings_are_split_at_the_equals_sign_that_ends_the_key() {
    let s = Setting::parse("m", "10.0.0.1=5").unwrap();
    assert_eq!((s.key, s.value), (json!("10.0.0.1"), json!(5)));
    let s = Setting::parse("m", r#"{"a":1}={"b":"x=y"}"#).unwrap();
    assert_eq!((s.key, s.value), (json!({"a": 1}), json!({"b": "x=y"})));
    assert_eq!(Setting::parse("m", "no value"), None);
}

#[test]
fn a_file_of_maps_has_two_forms() {
    let file = json!({"a": {"1": 2, "x": "y"}, "b": [{"key": 3, "value": {"c": 4}}]});
    let settings = Setting::parse_file(&file).unwrap();
    let get = |map: &str, key, value| Setting { map: map.into(), key, value };
    assert_eq!(
        settings,
        [get("a", json!(1), json!(2)), get("a", json!("x"), json!("y")), get("b", json!(3), json!({"c": 4}))]
    );
    assert!(Setting::parse_file(&json!([1])).is_err());
    assert!(Setting::parse_file(&json!({"a": [{"key": 1}]})).is_err());
}
