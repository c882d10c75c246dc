//! Types that GGUF files have and that do not run, by number: a refusal names the one that a file asks for, as the name
//! is what its publisher writes, and the number is known to nobody.

/// Number and name. Files of retired types (4, 5, 31 to 33, 36 to 38) are still about.
const TABLE: [(u32, &str); 26] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The name of a type that does not run; `None` for a number that no known type has.
pub fn foreign_name(number: u32) -> Option<&'static str> {
    TABLE.iter().find(|row| row.0 == number).map(|row| row.1)
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::*;

    #[test]
    fn every_number_below_42_is_one_or_the_other() {
        for number in 0..42 {
            let runs = QuantType::from_ggml(number).is_some();
            assert!(runs != foreign_name(number).is_some(), "{number}");
        }
        assert_eq!(foreign_name(42), None);
    }
}
