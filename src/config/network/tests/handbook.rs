//! docs/network.md: its examples are accepted, and what it says is refused is refused.

use super::*;

const PAGE: &str = include_str!("../../../../docs/network.md");

#[test]
fn every_example_is_accepted() {
    let is_form = |line: &str| line.contains("ADDRESS:");
    let lines = PAGE.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.contains('='));
    let examples: Vec<&str> = lines.filter(|line| !is_form(line)).collect();
    assert!(examples.len() > 30, "{}", examples.len());
    for line in examples {
        assert!(line.starts_with("phase.proxy=") || given(line) != Given::default(), "{line}");
    }
}

#[test]
fn what_is_said_to_be_refused_is_refused() {
    let (_, section) = PAGE.split_once("### What is refused, and why").unwrap();
    let (table, after) = section.split_once("\nPassed over").unwrap();
    let mut refused = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let first = row.split('|').nth(1).unwrap();
        for line in first.split('`').skip(1).step_by(2) {
            assert!(Given::parse(line).is_err(), "{line}");
            refused += 1;
        }
    }
    assert!(refused > 15, "{refused}");
    let (passed_over, _) = after.split_once("##").unwrap();
    for name in passed_over.split('`').skip(1).step_by(2).filter(|name| !name.starts_with("phase.")) {
        let line = format!("{}=1", name.trim_end_matches('=').replace('*', "x"));
        assert_eq!(given(&line), Given::default(), "{line}");
    }
}

#[test]
fn every_word_of_ip_is_explained() {
    for word in ["dhcp", "on", "single-dhcp", "both", "any", "auto6", "dhcp6", "either6", "off", "none"] {
        assert!(ip(&format!("ip={word}")).addresses.is_empty());
        assert!(
            PAGE.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{word}`"))),
            "{word}"
        );
    }
}
