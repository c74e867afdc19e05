//! Each command's arguments, and the mistakes in them.

use super::*;

fn parsed(line: &str) -> Result<Command, Error> {
    parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn boot_takes_what_the_design_lists() {
    let Command::Boot(boot) = parsed(
        "boot --provider http://a --provider=http://b --channel c --append x --method file --trust /t --load-only --json",
    )
    .unwrap() else {
        panic!("not boot")
    };
    assert_eq!(boot.source.providers, ["http://a", "http://b"]);
    assert_eq!(boot.source.trust, Some("/t".into()));
    assert_eq!(boot.method, Some(Method::File));
    assert!(boot.load_only && boot.json && !boot.dry_run);
    assert_eq!((boot.source.record, boot.source.no_expiry), (None, false));
}

#[test]
fn a_manifest_can_be_held_against_a_record_and_without_its_expiry() {
    for line in ["boot", "fetch --out o", "verify m"] {
        let line = format!("{line} --record r --no-expiry --channel c --trust t");
        let (Command::Boot(Boot { source, .. })
        | Command::Fetch { source, .. }
        | Command::Verify { source, .. }) = parsed(&line).unwrap()
        else {
            panic!("{line}")
        };
        let expected = Source {
            channel: Some("c".to_owned()),
            trust: Some("t".into()),
            record: Some("r".into()),
            no_expiry: true,
            ..Source::default()
        };
        assert_eq!(source, expected, "{line}");
    }
}

#[test]
fn help_fits_a_terminal() {
    assert_eq!(HELP.lines().find(|line| line.chars().count() > 100), None);
}

#[test]
fn nothing_and_help_show_help() {
    for line in ["", "--help", "-h", "help", "boot --help", "kexec -h"] {
        assert_eq!(parsed(line).unwrap(), Command::Help, "{line}");
    }
}

#[test]
fn mistakes_are_usage_errors() {
    for line in [
        "bot",
        "--verbose",
        "boot --trust",
        "boot extra",
        "boot --metod auto",
        "boot --method both",
        "boot --load-only --dry-run",
        "fetch",
        "verify",
        "verify a b",
        "verify a --provider http://a",
        "verify a --record",
        "net --no-expiry",
        "kexec --kernel k --record r",
        "doctor --initrd i",
        "doctor k",
        "doctor --kernel k --kernel j",
        "inspect",
        "fdt",
        "net down",
        "net up eth0 eth1",
    ] {
        assert_eq!(parsed(line).unwrap_err().exit(), Exit::Usage, "{line}");
    }
}

#[test]
fn the_other_commands() {
    assert_eq!(
        parsed("net up eth1 --json").unwrap(),
        Command::Net { interface: Some("eth1".to_owned()), json: true }
    );
    assert_eq!(parsed("net").unwrap(), Command::Net { interface: None, json: false });
    assert_eq!(
        parsed("doctor --kernel k --initrd i --initrd j --json").unwrap(),
        Command::Doctor(Doctor {
            kernel: Some("k".into()),
            initrd: vec!["i".into(), "j".into()],
            json: true
        })
    );
    assert_eq!(parsed("doctor").unwrap(), Command::Doctor(Doctor::default()));
}

fn kexec_parsed(line: &str) -> Kexec {
    match parsed(&format!("kexec {line}")) {
        Ok(Command::Kexec(kexec)) => kexec,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn kexec_takes_a_kernel_and_what_belongs_to_it() {
    let kexec = kexec_parsed(
        "--kernel k --initrd i --initrd j --dtb d --reuse-cmdline --append x --append=y --links down --reset pci",
    );
    assert_eq!(kexec.action, KexecAction::LoadAndExec);
    assert_eq!(kexec.initrd, [PathBuf::from("i"), PathBuf::from("j")]);
    assert_eq!((kexec.line, kexec.append.as_str()), (Line::Reused, "x y"));
    assert_eq!((kexec.dtb, kexec.method), (Some("d".into()), Method::Auto));
    assert_eq!(kexec.handoff, Handoff { links: Links::Down, reset: Reset::Pci });

    let kexec = kexec_parsed("--kernel k --cmdline=a --method load --dtb d --dry-run --json --links keep");
    assert_eq!((kexec.line, kexec.method), (Line::Given("a".to_owned()), Method::Load));
    assert_eq!((kexec.action, kexec.json), (KexecAction::DryRun, true));
    assert_eq!(kexec_parsed("--kernel k --load-only").action, KexecAction::LoadOnly);
    assert_eq!(kexec_parsed("--unload").action, KexecAction::Unload);
    assert!(kexec_parsed("--status --json").json);
    assert_eq!(kexec_parsed("--exec --reset xhci").handoff.reset, Reset::Xhci);
}

#[test]
fn kexec_tools_short_options_mean_the_same() {
    for (short, long) in [
        ("-l k --initrd=i --append=x", "--kernel k --load-only --initrd i --append x"),
        ("-l --initrd=i k", "--kernel k --load-only --initrd i"),
        ("-s -l k", "--method file --load-only --kernel k"),
        ("-c -l k", "--method load --kernel=k --load-only"),
        ("-a -l k --reuse-cmdline", "--reuse-cmdline --kernel k --load-only"),
        ("-e", "--exec"),
        ("-u", "--unload"),
        ("-S", "--status"),
    ] {
        assert_eq!(kexec_parsed(short), kexec_parsed(long), "{short}");
    }
}

#[test]
fn each_senseless_combination_of_kexec_says_so() {
    for (line, says) in [
        ("", "needs --kernel"),
        ("--dry-run", "needs --kernel"),
        ("--load-only --initrd i", "needs --kernel"),
        ("--exec --unload", "two of --load-only"),
        ("-l k -e", "two of --load-only"),
        ("-l k --load-only", "two of --load-only"),
        ("--status --dry-run", "two of --load-only"),
        ("--kernel k --exec", "load nothing"),
        ("--unload --initrd i", "load nothing"),
        ("--status --cmdline c", "load nothing"),
        ("--exec --append c", "load nothing"),
        ("--exec --reuse-cmdline", "load nothing"),
        ("--exec --method file", "load nothing"),
        ("-e -s", "load nothing"),
        ("--status --dtb d", "load nothing"),
        ("--kernel k --cmdline a --reuse-cmdline", "--cmdline and --reuse-cmdline"),
        ("--kernel k --reuse-cmdline --cmdline a", "--cmdline and --reuse-cmdline"),
        ("--kernel k --cmdline a --cmdline b", "--cmdline and --reuse-cmdline"),
        ("--kernel k -s -c", "--method, -s"),
        ("--kernel k --kernel j", "two of --kernel"),
        ("-l k --kernel j", "two of --kernel"),
        ("--kernel k --dtb d --dtb e", "two of --dtb"),
        ("--kernel k --dtb d -s", "takes no device tree"),
        ("--kernel k --load-only --links down", "--exec"),
        ("--status --reset pci", "--exec"),
        ("--kernel k --json", "--dry-run"),
        ("--unload --json", "--dry-run"),
        ("--kernel k --method both", "--method takes auto, file or load"),
        ("--kernel k --links up", "--links takes keep or down"),
        ("--kernel k --reset usb", "--reset takes none, pci or xhci"),
        ("--kernel k -p", "-p"),
        ("--kernel k extra", "extra"),
        ("-l k extra", "extra"),
        ("-l", "needs --kernel"),
        ("k", "\"k\""),
        ("--initrd a b --kernel k", "\"b\""),
        ("--kernel", "kernel"),
    ] {
        let error = parsed(&format!("kexec {line}")).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage, "{line}");
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}
