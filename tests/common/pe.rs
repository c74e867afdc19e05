//! A PE file, as unified kernel images are.

/// A PE file for x86_64 with `sections`, as the Microsoft PE Format has it.
pub(crate) fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut headers = vec![0; 0x40];
    headers[..2].copy_from_slice(b"MZ");
    headers[0x3c] = 0x40;
    headers.extend_from_slice(b"PE\0\0\x64\x86");
    headers.extend_from_slice(&u16::try_from(sections.len()).unwrap().to_le_bytes());
    headers.resize(0x40 + 24, 0);
    let mut body = Vec::new();
    for (name, content) in sections {
        let mut entry = [0; 40];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        entry[8..12].copy_from_slice(&size);
        entry[16..20].copy_from_slice(&size);
        entry[20..24].copy_from_slice(&u32::try_from(4096 + body.len()).unwrap().to_le_bytes());
        headers.extend_from_slice(&entry);
        body.extend_from_slice(content);
    }
    headers.resize(4096, 0);
    headers.extend_from_slice(&body);
    headers
}
