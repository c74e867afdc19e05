//! `phaseboot inspect`: what a kernel, ramdisk, unified kernel image, device tree or manifest is. Of
//! any architecture, on any machine. Nothing is verified, and nothing of it is loaded.

use std::path::Path;

use serde_json::{Map, Value};

use super::{limit, print, vouched};
use crate::devicetree;
use crate::error::{Error, without_controls};
use crate::image::archive::{self, Piece};
use crate::image::arm64::PageSize;
use crate::image::{self, Foreign, Header, KernelImage, Part};
use crate::log::{bytes, wrapped};
use crate::manifest::envelope::{self, Envelope, Kind};
use crate::manifest::{self};
use crate::paths::Paths;

/// What errors call it.
const NAME: &str = "the file";

/// Says what `file` is. An error if it is neither a kernel that can be loaded nor a ramdisk, a device
/// tree, a manifest or a key list; then, too, what can be said is.
pub(super) fn run(file: &Path, json: bool, paths: &Paths) -> Result<(), Error> {
    let artifact = vouched(NAME, file, paths)?;
    let size = artifact.size();
    let published = artifact.map().map_err(|errno| image::Error::Map { name: NAME, errno })?;
    let mut table = Table::default();
    table.add("file", file.display().to_string());
    let known = match KernelImage::examine(artifact, &limit(paths)) {
        Ok(mut kernel) => {
            table.add("kind", "kernel");
            table.add("size", size);
            describe_kernel(&mut kernel, &mut table);
            Ok(())
        }
        Err(error) => {
            table.add("size", size);
            other(&published, error, &mut table)
        }
    };
    print(&table.show(json))?;
    known
}

/// What is no kernel that can be loaded, and why not.
fn other(bytes: &[u8], error: image::Error, table: &mut Table) -> Result<(), Error> {
    let kind = match &error {
        image::Error::Foreign { kind, .. } => *kind,
        _ => Foreign::Unknown,
    };
    match kind {
        Foreign::Cpio
        | Foreign::CompressedCpio
        | Foreign::Xz
        | Foreign::Lzma
        | Foreign::Lz4
        | Foreign::Lzop
        | Foreign::Bzip2 => {
            table.add("kind", "ramdisk");
            table.add("archives", pieces(bytes));
            Ok(())
        }
        Foreign::DeviceTree => describe_tree(bytes, table),
        Foreign::Json if is_document(bytes) => describe_document(bytes, table),
        _ => {
            table.add("kind", "unusable");
            table.add("error", error.to_string());
            table.add("cure", error.hint());
            Err(error.into())
        }
    }
}

fn describe_kernel(kernel: &mut KernelImage, table: &mut Table) {
    let layers = kernel.wrappings().iter();
    let layers: Vec<Value> = layers
        .map(|layer| object([("format", layer.wrapper.to_string().into()), ("size", layer.size.into())]))
        .collect();
    table.add("arch", kernel.header().arch().name());
    if !layers.is_empty() {
        table.add("wrappings", layers);
        table.add("loaded_size", kernel.size());
    }
    match kernel.header() {
        Header::BzImage(header) => {
            table.add("format", "bzImage");
            table.add("protocol", format!("{}.{:02}", header.protocol >> 8, header.protocol & 0xff));
            table.add("relocatable", header.relocatable);
            table.add("above_4g", header.above_4g);
            table.add("pref_address", hex(header.pref_address));
            table.add("alignment", hex(header.alignment.into()));
            table.add("init_size", header.init_size);
            table.add("initrd_addr_max", hex(header.initrd_addr_max.into()));
            table.add("xloadflags", hex(header.xloadflags.into()));
        }
        Header::Arm64(header) => {
            table.add("format", "Image");
            table.add("text_offset", hex(header.text_offset));
            table.add("image_size", header.memory);
            table.add("old_header", header.old);
            table.add(
                "page_size",
                match header.page_size {
                    PageSize::Unspecified => "unspecified",
                    PageSize::K4 => "4K",
                    PageSize::K16 => "16K",
                    PageSize::K64 => "64K",
                },
            );
            table.add("endian", if header.big_endian { "big" } else { "little" });
            table.add("anywhere", header.anywhere);
        }
    }
    table.add("cmdline_limit", kernel.cmdline_limit());
    table.add_some("version", kernel.version());
    table.add("signed", kernel.is_signed());
    table.add_some("certificates_size", kernel.certificates());
    let (trees, ramdisks) = (kernel.take_trees(), kernel.take_ramdisks());
    let Some(uki) = kernel.uki() else { return };
    table.add_some("cmdline", uki.cmdline.clone());
    table.add_some("uname", uki.uname.clone());
    let release = uki.os_release.as_deref().unwrap_or_default().lines();
    let release = release.filter(|line| line.starts_with("PRETTY_NAME=") || line.starts_with("VERSION_ID="));
    table.add("os_release", release.map(Value::from).collect::<Vec<_>>());
    table.add("sbat", uki.sbat.iter().flat_map(|text| text.lines()).map(Value::from).collect::<Vec<_>>());
    table.add("unified_signed", uki.certificates.is_some());
    if uki.profiles > 0 {
        table.add("profiles", uki.profiles);
        table.add("profile_taken", "@0");
    }
    let sections = uki.sections.iter();
    let sections: Vec<Value> = sections
        .map(|(name, size)| object([("name", name.as_str().into()), ("size", (*size).into())]))
        .collect();
    table.add("sections", sections);
    table.add(
        "device_trees",
        trees.fixed.iter().chain(&trees.candidates).map(|tree| tree_of(tree)).collect::<Vec<_>>(),
    );
    let held = |part: &Part| {
        let archives = part.map().map(|bytes| pieces(&bytes)).unwrap_or_default();
        object([("name", part.name().into()), ("size", part.size().into()), ("archives", archives.into())])
    };
    table.add("ramdisks", ramdisks.iter().map(held).collect::<Vec<_>>());
}

/// The archives of a ramdisk.
fn pieces(bytes: &[u8]) -> Vec<Value> {
    let piece = |piece: Piece| {
        let mut row = Map::new();
        let mut add = |name: &str, value: Value| row.insert(name.to_owned(), value);
        add("format", piece.format.as_ref().into());
        add("offset", piece.offset.into());
        add("size", piece.size.into());
        if let Some(files) = piece.files {
            add("files", files.into());
        }
        if piece.microcode {
            add("microcode", true.into());
        }
        if let Some(unpacked) = piece.unpacked {
            add("unpacked_size", unpacked.into());
        }
        if let Some(fault) = piece.fault {
            add("fault", fault.into());
        }
        Value::Object(row)
    };
    archive::survey(bytes).into_iter().map(piece).collect()
}

fn describe_tree(bytes: &[u8], table: &mut Table) -> Result<(), Error> {
    table.add("kind", "device tree");
    table.add("model", strings(devicetree::root_strings(bytes, "model")?));
    table.add("compatible", strings(devicetree::root_strings(bytes, "compatible")?));
    Ok(())
}

/// A device tree of a unified kernel image.
fn tree_of(bytes: &[u8]) -> Value {
    let compatible = devicetree::root_strings(bytes, "compatible");
    match compatible {
        Ok(compatible) => object([("compatible", strings(compatible).into())]),
        Err(error) => object([("fault", error.to_string().into())]),
    }
}

fn strings(texts: Vec<String>) -> Vec<Value> {
    texts.into_iter().map(Value::from).collect()
}

/// Whether a JSON text means to be a manifest or a key list.
fn is_document(bytes: &[u8]) -> bool {
    match Envelope::parse(bytes) {
        Ok(envelope) => ["artifacts", "kind"].iter().any(|name| envelope.outer().get(name).is_some()),
        Err(fault) => fault != envelope::Fault::Unsigned,
    }
}

/// What a manifest or key list says, and who says to have signed it: nobody has verified that.
fn describe_document(bytes: &[u8], table: &mut Table) -> Result<(), Error> {
    let fault = |fault| manifest::Error::of_manifest(NAME, fault);
    let envelope = Envelope::parse(bytes).map_err(fault)?;
    let content = envelope.content().map_err(fault)?;
    let is_list = envelope::kind(&content) == Ok(Kind::Keys);
    table.add("kind", if is_list { "key list" } else { "manifest" });
    for name in [
        "channel",
        "arch",
        "manifest_version",
        "keys_version",
        "threshold",
        "created_at",
        "expires_at",
        "cmdline",
    ] {
        table.add_some(name, content.get(name).cloned());
    }
    let mut artifacts = Vec::new();
    let mut artifact = |name: &str, spec: &Value| {
        let field =
            |names: [&str; 2]| names.iter().find_map(|name| spec.get(name)).cloned().unwrap_or_default();
        artifacts.push(object([
            ("name", name.into()),
            ("size", field(["size", "size_bytes"])),
            ("hash", field(["hash", "sha256"])),
        ]));
    };
    for (name, spec) in content.get("artifacts").and_then(Value::as_object).into_iter().flatten() {
        match spec.as_object().filter(|_| name == "dtbs") {
            Some(trees) => trees.iter().for_each(|(name, spec)| artifact(name, spec)),
            None => artifact(name, spec),
        }
    }
    table.add("artifacts", artifacts);
    let ids = content.get("keys").and_then(Value::as_array).into_iter().flatten();
    table.add("keys", ids.filter_map(|key| key.get("keyid").cloned()).collect::<Vec<_>>());
    table.add_some("revoked", content.get("revoked").cloned());
    let signed = envelope.signed();
    table.add("signatures", signed.map_or(0, |signed| signed.signatures().len()));
    table.add("signed_by", signed.map(|signed| strings(signed.keyids().to_vec())).unwrap_or_default());
    table.add("verified", false);
    Ok(())
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Names and values, for people in this order.
#[derive(Default)]
struct Table(Vec<(&'static str, Value)>);

impl Table {
    /// Adds a line; an empty list is left out.
    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        let value = value.into();
        if value.as_array().is_none_or(|values| !values.is_empty()) {
            self.0.push((name, value));
        }
    }

    fn add_some(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn show(self, json: bool) -> String {
        if json {
            let object: Map<String, Value> =
                self.0.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            return format!("{}\n", Value::Object(object));
        }
        const INDENT: usize = 18;
        let mut text = String::new();
        for (name, value) in &self.0 {
            let mut label = *name;
            for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                text.push_str(&format!("{label:<INDENT$}{}\n", wrapped(&words(name, value), INDENT)));
                label = "";
            }
        }
        text
    }
}

/// One value for people.
fn words(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => without_controls(text),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_u64().filter(|_| name.ends_with("size")) {
            Some(size) => format!("{} ({size} bytes)", bytes(size)),
            None => number.to_string(),
        },
        Value::Array(values) => values.iter().map(|value| words(name, value)).collect::<Vec<_>>().join("; "),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let name = without_controls(name);
                format!("{name} {}", words(&name, value))
            };
            // A list comes last, for it goes on to the end, and not at all if it is empty.
            let is_list = |(_, value): &(&String, &Value)| value.is_array();
            let (lists, fields): (Vec<_>, Vec<_>) = fields.iter().partition(is_list);
            let lists =
                lists.into_iter().filter(|(_, value)| value.as_array().is_some_and(|it| !it.is_empty()));
            fields.into_iter().chain(lists).map(field).collect::<Vec<_>>().join(", ")
        }
        Value::Null => "-".to_owned(),
    }
}
