use super::*;
use crate::auth::Scope;

/// Routes as the router knows them and as the document shows them.
#[test]
fn the_document_describes_every_route() {
    let document = serde_json::to_value(openapi_document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let reference = include_str!("../../../docs/reference/http.md");
    for path in paths.keys() {
        let shown = path.strip_prefix(BASE).unwrap_or(path);
        assert!(reference.contains(shown), "docs/reference/http.md lacks {shown}");
    }
    // And what the reference page lists is there.
    for line in reference.lines().filter(|line| line.starts_with("| `")) {
        for route in line.split('|').nth(1).unwrap().split('`').filter(|part| part.contains('/')) {
            let (method, path) = route.split_once(' ').unwrap();
            let operation = &paths[&format!("{BASE}{path}")][method.to_ascii_lowercase()];
            assert!(operation.is_object(), "{route} is not in the document");
            assert!(operation["responses"]["default"]["content"][problem::PROBLEM_JSON].is_object(), "{route}");
        }
    }
    assert!(paths.contains_key("/readyz"));
    assert!(document["components"]["securitySchemes"]["bearer"].is_object());
    assert!(paths.len() > 25, "{} paths", paths.len());
}

#[test]
fn keys_are_documented_where_they_are_required() {
    let document = serde_json::to_value(openapi_document()).unwrap();
    for path in ["/accounts", "/accounts/{account}/top-ups", "/sessions", "/sessions/{session}/stop"] {
        let parameters = document["paths"][format!("{BASE}{path}")]["post"]["parameters"].as_array().unwrap();
        let key = parameters.iter().find(|p| p["name"] == "Idempotency-Key").unwrap();
        assert_eq!((&key["in"], &key["required"]), (&"header".into(), &true.into()), "{path}");
    }
}

#[test]
fn options_can_be_shared_without_showing_tokens() {
    let tokens = Tokens::new([("x".repeat(32), Scope::AllTenants)]);
    assert!(!format!("{tokens:?}").contains('x'));
}

/// What the dashboard asks is there: metrics by their page, routes by the document.
#[test]
fn the_dashboard_asks_for_what_there_is() {
    let text = include_str!("../../../deploy/grafana/dashboards/telemetry.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let metrics = include_str!("../../../docs/reference/metrics.md");
    let document = serde_json::to_value(openapi_document()).unwrap();
    let (mut asked, mut urls) = (0, 0);
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    for target in panels.flat_map(|panel| panel["targets"].as_array().unwrap()) {
        if let Some(expression) = target["expr"].as_str() {
            let of = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            for name in expression.split(of).filter(|word| word.starts_with("chargeplane_")) {
                assert!(metrics.contains(&format!("`{name}`")), "{name}");
                asked += 1;
            }
        }
        if let Some(url) = target["url"].as_str() {
            let path = url.strip_prefix("${url}").unwrap();
            let path =
                path.replace("${charger:percentencode}", "{charger}").replace("${station:percentencode}", "{station}");
            let route = &document["paths"][&path]["get"];
            assert!(route.is_object(), "{path}");
            let known: Vec<&str> =
                route["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
            for parameter in target["url_options"]["params"].as_array().unwrap() {
                assert!(known.contains(&parameter["key"].as_str().unwrap()), "{path}: {parameter}");
            }
            urls += 1;
        }
    }
    assert!(asked > 8 && urls > 4, "{asked} metrics and {urls} routes");
}
