//! The next kernel's command line: lib/cmdline.c and kernel/params.c are the grammar.

use super::Error;
use crate::config::cmdline::{Parameter, parameters, words};
use crate::error::printable;

const CHANNEL: &str = "phase.channel";

/// Whether the kernel sees the parameter `wanted` on `line`. What follows `--` is for init.
pub fn has(line: &str, wanted: &str) -> bool {
    parameters(line).any(|parameter| parameter.is(wanted))
}

/// What the command line begins with: what was `given`, or, where that is nothing, the kernel image's
/// `own`.
pub fn base<'a>(given: &'a str, own: Option<&'a str>) -> &'a str {
    match own {
        Some(own) if given.trim().is_empty() => {
            log::info!("the command line in the kernel image is taken: {}", printable(own));
            own
        }
        Some(own) if own != given => {
            log::info!("the command line in the kernel image is replaced: {}", printable(own));
            given
        }
        _ => given,
    }
}

/// The command line for the next kernel: `manifest`'s, then each parameter of the `running` kernel
/// whose name is in `inherit`, unless exactly it is there already or the manifest names another channel
/// than this boot's for the next one, then `append`. Arguments for
/// init, behind `--`, stay behind everything. At most `limit` bytes. A parameter is only inherited
/// if every reader of the line takes it for one: see [`is_one_word`].
pub fn compose(
    manifest: &str,
    running: &str,
    inherit: &[String],
    append: &str,
    limit: usize,
) -> Result<String, Error> {
    for text in [manifest, append] {
        if text.chars().any(char::is_control) {
            return Err(Error::CmdlineCharacter { text: printable(text) });
        }
        if has_open_quote(text) {
            return Err(Error::CmdlineQuote { text: printable(text) });
        }
    }
    let mut kernel = Vec::new();
    let mut init = Vec::new();
    take(manifest, &mut kernel, &mut init);
    // The last one counts: a channel that is published for the next boot would not be gone to.
    let is_sent_on = has(manifest, CHANNEL);
    let wanted = |parameter: &Parameter<'_>| {
        inherit.iter().any(|wanted| parameter.is(wanted)) && !(is_sent_on && parameter.is(CHANNEL))
    };
    for parameter in parameters(running).filter(wanted).map(Parameter::raw) {
        if !is_one_word(parameter) {
            log::warn!("not handed on, it could be read as several parameters: {}", printable(parameter));
        } else if !kernel.contains(&parameter) {
            kernel.push(parameter);
        }
    }
    take(append, &mut kernel, &mut init);
    if !init.is_empty() {
        kernel.push("--");
        kernel.append(&mut init);
    }
    within(kernel.join(" "), limit)
}

/// Whether a parameter stays one to everybody who splits a command line: the kernel takes byte 0xa0
/// for a space (lib/ctype.c), its early parsers and shell scripts take no notice of quotes.
fn is_one_word(parameter: &str) -> bool {
    parameter.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// Whether what follows `text` would belong to its last parameter.
pub fn has_open_quote(text: &str) -> bool {
    text.bytes().filter(|&byte| byte == b'"').count() % 2 == 1
}

/// `line`, if the next kernel reads it whole.
pub fn within(line: String, limit: usize) -> Result<String, Error> {
    if line.len() > limit { Err(Error::CmdlineTooLong { length: line.len(), limit }) } else { Ok(line) }
}

/// `line` with a parameter of the kernel added.
pub(super) fn with(line: &str, parameter: &str) -> String {
    let mut kernel = Vec::new();
    let mut init = Vec::new();
    take(line, &mut kernel, &mut init);
    kernel.push(parameter);
    if !init.is_empty() {
        kernel.push("--");
        kernel.append(&mut init);
    }
    kernel.join(" ")
}

/// Sorts the parameters of `line` into those for the kernel and those for init.
fn take<'a>(line: &'a str, kernel: &mut Vec<&'a str>, init: &mut Vec<&'a str>) {
    let mut parameters = words(line);
    kernel.extend(parameters.by_ref().take_while(|parameter| *parameter != "--"));
    init.extend(parameters);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use proptest::prelude::*;

    fn inherit() -> Vec<String> {
        ["console", "earlycon", "phase.mode", "phase.no-write"].map(String::from).to_vec()
    }

    #[test]
    fn an_images_own_line_stands_in_for_none() {
        assert_eq!(base("", Some("quiet")), "quiet");
        assert_eq!(base(" ", Some("quiet")), "quiet");
        assert_eq!(base("debug", Some("quiet")), "debug");
        assert_eq!(base("debug", None), "debug");
        assert_eq!(base("", None), "");
    }

    #[test]
    fn manifest_then_inherited_then_appended() {
        let line = compose(
            "root=/dev/ram0  console=ttyS0",
            "BOOT_IMAGE=x console=tty0 earlycon console=ttyS0 phase.no_write=true foo=1 phase.mode=private",
            &inherit(),
            "debug",
            2047,
        );
        assert_eq!(
            line.unwrap(),
            "root=/dev/ram0 console=ttyS0 console=tty0 earlycon phase.no_write=true phase.mode=private debug"
        );
    }

    #[test]
    fn the_next_kernel_goes_to_the_channel_that_the_manifest_names() {
        let inherit = ["phase.channel", "phase.cache"].map(String::from);
        let running = "phase.channel=first phase.cache=off";
        let line = |manifest, append| compose(manifest, running, &inherit, append, 99).unwrap();
        assert_eq!(line("phase.channel=second", ""), "phase.channel=second phase.cache=off");
        assert_eq!(line("phase.cache=on", ""), "phase.cache=on phase.channel=first phase.cache=off");
        assert_eq!(
            line("quiet", "phase.channel=x"),
            "quiet phase.channel=first phase.cache=off phase.channel=x"
        );
        assert_eq!(line("-- phase.channel=x", ""), "phase.channel=first phase.cache=off -- phase.channel=x");
    }

    #[test]
    fn arguments_for_init_stay_last() {
        let line = compose("quiet -- single", "console=tty0 -- console=ttyS9", &inherit(), "debug -- x", 99);
        assert_eq!(line.unwrap(), "quiet console=tty0 debug -- single x");
        assert!(has("a no-kaslr -- b", "no_kaslr"));
        assert!(!has("a -- nokaslr", "nokaslr"));
        assert_eq!(with("quiet -- single", "nokaslr"), "quiet nokaslr -- single");
    }

    #[test]
    fn too_long_is_an_error_with_both_lengths() {
        let error = compose("0123456789", "", &[], "a", 11).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the command line for the next kernel is 12 bytes long, it reads at most 11"
        );
        assert_eq!(error.exit(), Exit::LoadFailed);
        // Of a boot, and of `phaseboot kexec`.
        assert!(error.hint().contains("phase.append") && error.hint().contains("--append"));
        assert!(compose("0123456789", "", &[], "", 10).is_ok());
    }

    #[test]
    fn what_would_change_its_meaning_is_refused() {
        assert!(matches!(compose("a\nb", "", &[], "", 99), Err(Error::CmdlineCharacter { .. })));
        assert!(matches!(compose("a", "", &[], "b\0", 99), Err(Error::CmdlineCharacter { .. })));
        assert!(matches!(compose("a=\"b", "", &[], "c", 99), Err(Error::CmdlineQuote { .. })));
        assert!(matches!(compose("a", "", &[], "b\x1b[2J", 99), Err(Error::CmdlineCharacter { .. })));
        for smuggled in [
            "console=\"x y",
            "console=\"x y\"",
            "\"console=x y\"",
            "console=x\u{e0}init=/bin/sh",
            "earlycon=\"\u{7}\"",
        ] {
            assert_eq!(compose("a", smuggled, &inherit(), "", 99).unwrap(), "a", "{smuggled}");
        }
    }

    proptest! {
        #[test]
        fn nothing_the_manifest_says_is_lost(manifest in "[a-z=\" -]{0,40}", running in "\\PC{0,60}") {
            if let Ok(line) = compose(&manifest, &running, &inherit(), "", 4096) {
                for parameter in words(&manifest).filter(|parameter| *parameter != "--") {
                    prop_assert!(words(&line).any(|found| found == parameter));
                }
            }
        }
    }
}
