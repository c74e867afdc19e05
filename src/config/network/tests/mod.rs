//! What is accepted of the two documents, line by line, and what is refused.

use proptest::prelude::*;

use super::*;

fn given(line: &str) -> Given {
    Given::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

proptest! {
    #[test]
    fn no_line_panics(line in "((ip|vlan|bond|BOOTIF|rd\\.route|nameserver|ifname)=[\\PC]{0,24} ?){0,4}") {
        let _ = Given::parse(&line);
    }
}

#[test]
fn smoke() {
    assert_eq!(given("quiet"), Given::default());
    assert!(given("ip=dhcp").for_link("eth0", None).dhcp4);
}
