//! What the split patterns ask of a character.
//!
//! One class per character, from its Unicode general category: `\p{L}` is Lower, Upper or Caseless,
//! `\p{N}` Number, `\p{M}` Mark, `\s` Newline or Space. The classes are disjoint, which is what lets a
//! scanner decide with one look.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Ll
    Lower,
    /// Lu, Lt
    Upper,
    /// Lm, Lo: either case at will
    Caseless,
    Mark,
    Number,
    /// `\r` and `\n`
    Newline,
    /// `\s` but for newlines
    Space,
    Other,
}

impl Class {
    pub fn of(c: char) -> Self {
        match c {
            'a'..='z' => Self::Lower,
            'A'..='Z' => Self::Upper,
            '0'..='9' => Self::Number,
            '\r' | '\n' => Self::Newline,
            ' ' | '\t' | '\x0B' | '\x0C' => Self::Space,
            '\0'..='\x7F' => Self::Other,
            _ => Self::beyond_ascii(c),
        }
    }

    fn beyond_ascii(c: char) -> Self {
        use GeneralCategory as G;
        match c.general_category() {
            G::LowercaseLetter => Self::Lower,
            G::UppercaseLetter | G::TitlecaseLetter => Self::Upper,
            G::ModifierLetter | G::OtherLetter => Self::Caseless,
            G::NonspacingMark | G::SpacingMark | G::EnclosingMark => Self::Mark,
            G::DecimalNumber | G::LetterNumber | G::OtherNumber => Self::Number,
            _ if c.is_whitespace() => Self::Space,
            _ => Self::Other,
        }
    }

    /// `\p{L}`
    pub fn is_letter(self) -> bool {
        matches!(self, Self::Lower | Self::Upper | Self::Caseless)
    }

    /// `\s`
    pub fn is_space(self) -> bool {
        matches!(self, Self::Space | Self::Newline)
    }
}
