//! A tree as nodes, for changes in more than one place: made from a [`Blob`](super::blob::Blob)'s
//! tokens, and turned into them again.

use std::borrow::Cow;

use super::blob::{Property, Token};

/// A node with everything below it.
#[derive(Clone, Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) name: &'a [u8],
    pub(super) properties: Vec<Property<'a>>,
    pub(super) children: Vec<Self>,
}

/// A number as cells of 32 bits.
pub(super) fn cells(number: u32) -> Cow<'static, [u8]> {
    Cow::Owned(number.to_be_bytes().to_vec())
}

impl<'a> Node<'a> {
    /// The root of a [`Blob`](super::blob::Blob), whose tokens are balanced and not deep.
    pub(super) fn root(tokens: Vec<Token<'a>>) -> Self {
        let mut tokens = tokens.into_iter();
        tokens.next();
        Self::read(b"", &mut tokens)
    }

    fn read(name: &'a [u8], tokens: &mut std::vec::IntoIter<Token<'a>>) -> Self {
        let mut node = Self { name, ..Self::default() };
        while let Some(token) = tokens.next() {
            match token {
                Token::Begin(name) => node.children.push(Self::read(name, tokens)),
                Token::Property(property) => node.properties.push(property),
                Token::End => break,
            }
        }
        node
    }

    /// The tokens of this node and what is below it.
    pub(super) fn into_tokens(self, out: &mut Vec<Token<'a>>) {
        out.push(Token::Begin(self.name));
        out.extend(self.properties.into_iter().map(Token::Property));
        for child in self.children {
            child.into_tokens(out);
        }
        out.push(Token::End);
    }

    /// The value of a property.
    pub(super) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.properties.iter().find(|property| property.name == name).map(|property| property.value.as_ref())
    }

    /// Sets a property, which is added if it is not there.
    pub(super) fn set(&mut self, name: &'a [u8], value: Cow<'a, [u8]>) {
        match self.properties.iter_mut().find(|property| property.name == name) {
            Some(property) => property.value = value,
            None => self.properties.push(Property::new(name, value)),
        }
    }

    /// The first child with a name that `is` it.
    pub(super) fn child(&self, is: impl Fn(&[u8]) -> bool) -> Option<&Self> {
        self.children.iter().find(|child| is(child.name))
    }

    /// The same to be changed; where there is none it is made, with `name`.
    pub(super) fn child_mut(&mut self, name: &'a [u8], is: impl Fn(&[u8]) -> bool) -> Option<&mut Self> {
        let at = self.children.iter().position(|child| is(child.name)).unwrap_or_else(|| {
            self.children.push(Self { name, ..Self::default() });
            self.children.len().saturating_sub(1)
        });
        self.children.get_mut(at)
    }

    /// The node that a path from here leads to, as `/aliases` writes it.
    pub(super) fn at(&self, path: &[u8]) -> Option<&Self> {
        steps(path)?.try_fold(self, |node, step| node.child(|name| name == step))
    }

    /// The same to be changed.
    pub(super) fn at_mut(&mut self, path: &[u8]) -> Option<&mut Self> {
        steps(path)?.try_fold(self, |node, step| node.children.iter_mut().find(|child| child.name == step))
    }
}

/// The names of `/soc/ethernet@7d580000`, which ends with a NUL.
fn steps(path: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    Some(path.strip_suffix(b"\0")?.strip_prefix(b"/")?.split(|&byte| byte == b'/'))
}
