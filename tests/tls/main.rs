//! https as it is: phaseboot's client and the real `phaseboot` on one side, `phasectl serve`, curl and
//! certificates made by openssl on the other.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may fail in any way, and print"
)]

mod client;
mod pki;
#[path = "../common/proxy.rs"]
mod proxies;
mod serve;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use self::pki::Pki;

/// `phasectl serve` with a certificate.
struct Server {
    child: Child,
    /// What it printed when it was ready.
    line: String,
}

impl Server {
    /// Serves the folder `www` beside the certificates: the chain `chain` with the key of `name`.
    fn start(pki: &Pki, chain: &str, name: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_phasectl"))
            .current_dir(pki.folder())
            .args(["serve", "www", "--listen", "127.0.0.1:0", "--tls-cert", chain, "--tls-key"])
            .arg(format!("{name}.key"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, line }
    }

    fn port(&self) -> &str {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (_, after) = self.line.split_once("127.0.0.1:").unwrap();
        &after[..digits(after)]
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port())
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Ends the server as a service manager does, and returns its log.
    fn stop(mut self) -> String {
        self.terminate();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority `ca` and a server `server` of it for localhost and 127.0.0.1, with a file to serve.
fn site() -> Option<(TempDir, Pki)> {
    let (folder, pki) = Pki::new()?;
    std::fs::create_dir(folder.path().join("www")).unwrap();
    std::fs::write(folder.path().join("www/file"), "hello").unwrap();
    pki.authority("ca");
    pki.server("server", "ca");
    Some((folder, pki))
}

fn run(folder: &Path, program: &str, line: &str) -> Output {
    Command::new(program).current_dir(folder).args(line.split_ascii_whitespace()).output().unwrap()
}

fn phasectl(folder: &Path, line: &str) -> Output {
    run(folder, env!("CARGO_BIN_EXE_phasectl"), line)
}
