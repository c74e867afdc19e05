//! What the kernel command line says of modules: `MODULE.PARAMETER=VALUE`, which the kernel itself gives
//! only to what is built in, and `modprobe.blacklist=`. Source: modprobe(8), modprobe.d(5); kernel/params.c.

use std::collections::HashSet;

use super::modules::underscored;
use crate::config::cmdline::{self, same_name};

/// In bytes: more than a whole command line of x86 or arm64 (COMMAND_LINE_SIZE, 2048).
const MOST_BYTES: usize = 4096;

/// The parameters of a module, as finit_module(2) takes them. Quotes stay: the kernel reads them again.
pub(super) fn of_module(line: &str, module: &str) -> String {
    let mut found = String::new();
    for parameter in cmdline::parameters(line) {
        let Some((owner, name)) = parameter.name().split_once('.') else { continue };
        if !same_name(owner, module) || name.is_empty() || name.contains('.') {
            continue;
        }
        // `"module.name=a b"` can be quoted as a whole.
        let raw = parameter.raw();
        let quote = if raw.starts_with('"') { "\"" } else { "" };
        let Some((_, rest)) = raw.split_once('.') else { continue };
        if found.len() + quote.len() + rest.len() + 1 > MOST_BYTES {
            break;
        }
        if !found.is_empty() {
            found.push(' ');
        }
        found.push_str(quote);
        found.push_str(rest);
    }
    found
}

/// Modules that no device has loaded; what needs them, or asks for them by name, still does.
pub(super) fn blacklisted(line: &str) -> HashSet<String> {
    cmdline::parameters(line)
        .filter(|parameter| parameter.is("modprobe.blacklist"))
        .filter_map(cmdline::Parameter::value)
        .flat_map(|names| names.split(','))
        .map(underscored)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_module_gets_its_own_parameters() {
        for (line, module, given) in [
            ("console=ttyS0 watchdog.stop_on_reboot=0 quiet", "watchdog", "stop_on_reboot=0"),
            ("e1000e.IntMode=1 e1000e.debug=3 e1000.debug=4", "e1000e", "IntMode=1 debug=3"),
            ("virtio-net.napi_tx=N virtio_net.gso", "virtio_net", "napi_tx=N gso"),
            ("a.b=\"c d\" \"a.e=f g\" a.h=\"i\"", "a", "b=\"c d\" \"e=f g\" h=\"i\""),
            ("a.b=c.d=e a.f=http://g.h", "a", "b=c.d=e f=http://g.h"),
            ("a.b=\"c d", "a", "b=\"c d"),
            ("a.b=1 -- a.c=2", "a", "b=1"),
            ("x=\"a.b=1\" x=a.b=2 aa.b=3 A.b=4 .b=5 a=6 a", "a", ""),
            ("a. a.=1 a..b=2 a.b.c=3", "a", ""),
            ("", "a", ""),
        ] {
            assert_eq!(of_module(line, module), given, "{line}");
        }
        let long = "a.b=1 ".repeat(2000);
        assert!(of_module(&long, "a").len() <= MOST_BYTES);
    }

    #[test]
    fn what_is_blacklisted_is_named_once_or_often() {
        let line = "modprobe.blacklist=nouveau,virtio-net modprobe.blacklist=\"e1000\" modprobe.blacklist \
                    x.blacklist=igb -- modprobe.blacklist=tg3";
        let mut found: Vec<String> = blacklisted(line).into_iter().collect();
        found.sort();
        assert_eq!(found, ["e1000", "nouveau", "virtio_net"]);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "[ab.=\" \\t_-]{0,80}", module in "[ab_]{0,3}") {
            prop_assert!(of_module(&line, &module).len() <= line.len());
            let _ = blacklisted(&line);
        }

        #[test]
        fn nobody_gets_what_is_another_modules(
            all in prop::collection::vec(("[ab]{1,2}", "[cd_]{1,3}", "([a-d.=]{0,4}|\"[a-d.= ]{0,4}\")"), 0..12),
            module in "[ab]{1,2}",
        ) {
            let told = |(_, name, value): &(String, String, String)| format!("{name}={value}");
            let words: Vec<String> = all.iter().map(|one| format!("{}.{}", one.0, told(one))).collect();
            let own: Vec<String> = all.iter().filter(|one| one.0 == module).map(told).collect();
            prop_assert_eq!(of_module(&words.join(" "), &module), own.join(" "));
        }
    }
}
