//! Authorities and certificates, made by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A folder where NAME.pem is the certificate of NAME and NAME.key its private key.
pub(crate) struct Pki {
    folder: PathBuf,
}

/// What a certificate is for.
pub(crate) struct Wanted<'a> {
    pub(crate) issuer: &'a str,
    /// As openssl writes times: YYMMDDhhmmssZ.
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) extensions: &'a str,
}

pub(crate) const SERVER: Wanted<'static> = Wanted {
    issuer: "ca",
    from: "20200101000000Z",
    to: "20990101000000Z",
    extensions: "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n\
                 subjectAltName=DNS:localhost,IP:127.0.0.1",
};
pub(crate) const AUTHORITY: Wanted<'static> =
    Wanted { extensions: "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign", ..SERVER };

impl Pki {
    /// None, and a reason printed, where there is no openssl.
    pub(crate) fn new() -> Option<(TempDir, Self)> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("skipped: no openssl to make certificates with");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let pki = Self { folder: folder.path().to_owned() };
        Some((folder, pki))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn openssl(&self, line: &str) {
        let output = super::run(&self.folder, "openssl", line);
        assert!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A new key, and a request for a certificate.
    fn request(&self, name: &str) {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ));
    }

    /// An authority that signed itself.
    pub(crate) fn authority(&self, name: &str) {
        self.request(name);
        self.sign(name, name, &Wanted { issuer: name, ..AUTHORITY });
    }

    /// A server for localhost.
    pub(crate) fn server(&self, name: &str, issuer: &str) {
        self.issue(name, &Wanted { issuer, ..SERVER });
    }

    pub(crate) fn issue(&self, name: &str, wanted: &Wanted<'_>) {
        self.request(name);
        self.sign(name, name, wanted);
    }

    /// Answers the request of `name` with the certificate `out`.
    pub(crate) fn sign(&self, name: &str, out: &str, wanted: &Wanted<'_>) {
        let Wanted { issuer, from, to, extensions } = wanted;
        let config = format!(
            "[ca]\ndefault_ca=all\n[all]\ndatabase=index\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\nrand_serial=yes\n\
             unique_subject=no\n[any]\ncommonName=supplied\n[extensions]\n{extensions}\n"
        );
        fs::write(self.folder.join("config"), config).unwrap();
        fs::write(self.folder.join("index"), "").unwrap();
        let issuer = if *issuer == name {
            format!("-selfsign -keyfile {name}.key")
        } else {
            format!("-cert {issuer}.pem -keyfile {issuer}.key")
        };
        self.openssl(&format!(
            "ca -batch -notext -config config -extensions extensions {issuer} \
             -startdate {from} -enddate {to} -in {name}.csr -out {out}.pem"
        ));
    }

    /// Puts certificates behind each other into `out`, and returns its name.
    pub(crate) fn chain(&self, out: &str, names: &[&str]) -> String {
        let files = names.iter().map(|name| fs::read_to_string(self.folder.join(format!("{name}.pem"))));
        let joined: String = files.map(Result::unwrap).collect();
        fs::write(self.folder.join(format!("{out}.pem")), joined).unwrap();
        format!("{out}.pem")
    }

    /// The pin of a certificate, computed without any of our code.
    pub(crate) fn pin(&self, name: &str) -> String {
        let script = format!(
            "openssl x509 -in {name}.pem -noout -pubkey | openssl pkey -pubin -outform DER \
             | openssl dgst -sha256 -binary | openssl base64"
        );
        let output = Command::new("sh").current_dir(&self.folder).args(["-c", &script]).output().unwrap();
        format!("sha256//{}", String::from_utf8(output.stdout).unwrap().trim())
    }
}
