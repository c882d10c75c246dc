//! The types that a metadata value can have, and how their bytes read as numbers.

#![forbid(unsafe_code)]

/// A value's type, numbered as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// By number: the type, its name, and the bytes of a value if they are always as many.
const TABLE: [(Kind, &str, Option<u64>); 13] = [
    (Kind::U8, "u8", Some(1)),
    (Kind::I8, "i8", Some(1)),
    (Kind::U16, "u16", Some(2)),
    (Kind::I16, "i16", Some(2)),
    (Kind::U32, "u32", Some(4)),
    (Kind::I32, "i32", Some(4)),
    (Kind::F32, "f32", Some(4)),
    (Kind::Bool, "bool", Some(1)),
    (Kind::Str, "string", None),
    (Kind::Array, "array", None),
    (Kind::U64, "u64", Some(8)),
    (Kind::I64, "i64", Some(8)),
    (Kind::F64, "f64", Some(8)),
];

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        TABLE.get(usize::try_from(number).ok()?).map(|row| row.0)
    }

    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub(super) fn width(self) -> Option<u64> {
        TABLE[self as usize].2
    }

    /// The bytes as an integer; `None` if this is no integer type.
    pub(super) fn integer(self, bytes: &[u8]) -> Option<i128> {
        Some(match self {
            Kind::U8 => u8::from_le_bytes(exactly(bytes)?).into(),
            Kind::I8 => i8::from_le_bytes(exactly(bytes)?).into(),
            Kind::U16 => u16::from_le_bytes(exactly(bytes)?).into(),
            Kind::I16 => i16::from_le_bytes(exactly(bytes)?).into(),
            Kind::U32 => u32::from_le_bytes(exactly(bytes)?).into(),
            Kind::I32 => i32::from_le_bytes(exactly(bytes)?).into(),
            Kind::U64 => u64::from_le_bytes(exactly(bytes)?).into(),
            Kind::I64 => i64::from_le_bytes(exactly(bytes)?).into(),
            Kind::F32 | Kind::F64 | Kind::Bool | Kind::Str | Kind::Array => return None,
        })
    }

    /// The bytes as a float; `None` if this is no float type.
    pub(super) fn float(self, bytes: &[u8]) -> Option<f64> {
        match self {
            Kind::F32 => Some(f32::from_le_bytes(exactly(bytes)?).into()),
            Kind::F64 => Some(f64::from_le_bytes(exactly(bytes)?)),
            _ => None,
        }
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for number in 0..13 {
            assert_eq!(Kind::from_number(number).unwrap() as u32, number);
        }
        assert_eq!(Kind::from_number(13), None);
        assert_eq!(Kind::from_number(u32::MAX), None);
    }

    #[test]
    fn integers_keep_their_sign() {
        assert_eq!(Kind::I8.integer(&[0xff]), Some(-1));
        assert_eq!(Kind::U8.integer(&[0xff]), Some(255));
        assert_eq!(Kind::U64.integer(&[0xff; 8]), Some(u64::MAX.into()));
        assert_eq!(Kind::I64.integer(&[0xff; 8]), Some(-1));
        assert_eq!(Kind::F32.integer(&[0; 4]), None);
        assert_eq!(Kind::U32.integer(&[0; 3]), None);
    }
}
