//! Every rule against its published pattern, run by a regex engine.

use fancy_regex::Regex;

use super::Split;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The rules and their patterns; each pattern splits the pieces of the one before.
const RULES: [(Split, &[&str]); 7] = [
    (Split::Gpt2, &[GPT2]),
    (Split::SmolLm, &[r"\p{N}|\P{N}+", GPT2]),
    (Split::Llama3, &[LLAMA3]),
    (Split::Qwen2, &[QWEN2]),
    (Split::Qwen35, &[QWEN35]),
    (Split::Gpt4o, &[GPT4O]),
    (Split::Tekken, &[TEKKEN]),
];

fn by_regex<'t>(patterns: &[Regex], text: &'t str) -> Vec<&'t str> {
    patterns.iter().fold(vec![text], |pieces, pattern| {
        let parts =
            |piece: &'t str| -> Vec<&'t str> { pattern.find_iter(piece).map(|m| m.unwrap().as_str()).collect() };
        pieces.into_iter().flat_map(parts).collect()
    })
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Characters that the patterns tell apart, several of each class.
const TELLING: &[char] = &[
    ' ', ' ', ' ', '\t', '\n', '\r', '\u{B}', '\u{85}', '\u{A0}', '\u{2003}', '\u{2028}', '\u{3000}', '\'', '\'', 's',
    'S', 't', 'r', 'e', 'E', 'v', 'm', 'l', 'L', 'd', 'ſ', 'a', 'A', 'b', 'Z', 'é', 'É', 'ǅ', 'ʰ', 'ª', '中', 'あ',
    'א', 'ك', '\u{301}', '\u{93E}', '\u{20DD}', '1', '2', '9', '٣', '²', 'Ⅷ', '½', '.', '!', '/', '/', '$', '_', '-',
    '😀', '\u{200D}', '\u{FE0F}', '\u{0}', '\u{AD}',
];

fn check(text: &str, compiled: &[(Split, Vec<Regex>)]) {
    for (rule, patterns) in compiled {
        let got: Vec<&str> = rule.pieces(text).collect();
        assert_eq!(got.concat(), text, "{rule:?} loses text");
        assert_eq!(got, by_regex(patterns, text), "{rule:?} on {text:?}");
    }
}

fn compiled() -> Vec<(Split, Vec<Regex>)> {
    let compile = |patterns: &[&str]| patterns.iter().map(|p| Regex::new(p).unwrap()).collect();
    RULES.iter().map(|(rule, patterns)| (*rule, compile(patterns))).collect()
}

#[test]
fn rules_agree_with_their_patterns_on_telling_characters() {
    let compiled = compiled();
    let mut random = Random(1);
    for _ in 0..20_000 {
        let text: String = (0..random.below(14) + 1).map(|_| TELLING[random.below(TELLING.len())]).collect();
        check(&text, &compiled);
    }
}

#[test]
fn rules_agree_with_their_patterns_on_any_character() {
    let compiled = compiled();
    // Tables of different Unicode versions differ in what one of them does not know yet.
    let unassigned = Regex::new(r"\p{Cn}").unwrap();
    let mut random = Random(2);
    for _ in 0..3_000 {
        let text: String = (0..10)
            .filter_map(|_| match random.below(3) {
                0 => Some(TELLING[random.below(TELLING.len())]),
                1 => char::from_u32(random.below(0x3100) as u32),
                _ => char::from_u32(random.below(0x20000) as u32),
            })
            .filter(|c| !unassigned.is_match(&c.to_string()).unwrap())
            .collect();
        check(&text, &compiled);
    }
}

#[test]
fn a_mebibyte_of_one_character_is_quick() {
    for c in [' ', '\n', 'a', 'A', '1', '.', '\'', '中', '\u{301}', '😀'] {
        let text = c.to_string().repeat((1 << 20) / c.len_utf8());
        for (rule, _) in RULES {
            let start = std::time::Instant::now();
            let bytes: usize = rule.pieces(&text).map(str::len).sum();
            assert_eq!(bytes, text.len());
            assert!(start.elapsed().as_secs_f32() < 1.0, "{rule:?} on {c:?}");
        }
    }
}
