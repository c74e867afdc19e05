//! The client against nginx, as it is packaged.

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::port::Port;
use crate::{MANIFEST, Published, file, published_of};

struct Nginx {
    child: Child,
    folder: tempfile::TempDir,
    port: Port,
}

impl Nginx {
    /// Serves `www` of a folder of its own on 127.0.0.1. None, and a reason printed, where there is none.
    fn start() -> Option<Self> {
        let program =
            ["/usr/sbin/nginx", "/usr/bin/nginx"].map(PathBuf::from).into_iter().find(|path| path.exists());
        let Some(program) = program else {
            println!("skipped: no nginx");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let port = Port::on(Ipv4Addr::LOCALHOST);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .concat();
        // Its workers have the rights of whoever runs the test.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off;\nmaster_process off;\n{user}\npid {at}/pid;\nerror_log {at}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ log_format short '$connection $status $http_range';\naccess_log {at}/access.log short;\n\
             sendfile on;\n{temporary}\n\
             server {{ listen {};\nroot {at}/www;\n\
             location /moved/ {{ return 302 /$uri/../../stable/x86_64/kernel; }}\n\
             location /slow/ {{ alias {at}/www/stable/x86_64/; limit_rate 4m; }} }} }}\n",
            port.address
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        std::fs::create_dir_all(folder.path().join("www/stable/x86_64")).unwrap();
        let child = Command::new(program)
            .args([
                "-p",
                &at.to_string(),
                "-e",
                &format!("{at}/error.log"),
                "-c",
                &format!("{at}/nginx.conf"),
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self { child, folder, port };
        let is_ready = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(50));
            TcpStream::connect(nginx.port.address).is_ok()
        });
        assert!(is_ready, "{}", nginx.log("error.log"));
        Some(nginx)
    }

    fn publish(&self, published: &Published) {
        let at = self.folder.path().join("www");
        std::fs::write(at.join(&MANIFEST[1..]), published.manifest_bytes()).unwrap();
        std::fs::write(at.join("stable/x86_64/kernel"), &published.kernel).unwrap();
        std::fs::write(at.join("stable/x86_64/initramfs"), file(2, 150_000)).unwrap();
    }

    fn url(&self) -> String {
        format!("http://{}", self.port.address)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_serves_us() {
    let Some(nginx) = Nginx::start() else { return };
    for urls in [&["kernel"][..], &["/moved/kernel"], &["/none/kernel", "kernel"]] {
        let published = published_of(file(3, 5_000_000), urls);
        nginx.publish(&published);
        published.fetch_from(&nginx.url(), Duration::from_secs(20)).unwrap();
    }
    thread::sleep(Duration::from_millis(200));
    let log = nginx.log("access.log");
    let connections: std::collections::BTreeSet<&str> =
        log.lines().filter_map(|line| line.split(' ').next()).collect();
    // One more was for seeing whether it is there.
    assert!(connections.len() <= 7 && log.lines().count() >= 14, "{log}");
    assert!(log.contains(" 302 ") && log.contains(" 404 "), "{log}");
}

#[test]
fn nginx_limits_each_connection_and_ranges_help() {
    let Some(nginx) = Nginx::start() else { return };
    let published = published_of(file(3, 48 << 20), &["/slow/kernel"]);
    nginx.publish(&published);
    let started = std::time::Instant::now();
    published.fetch_from(&nginx.url(), Duration::from_secs(60)).unwrap();
    // 12 s over one connection.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(nginx.log("access.log").contains(" 206 bytes="), "{}", nginx.log("access.log"));
}
