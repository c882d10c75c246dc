//! What a file says of its model, for hosts that want to know.

use crate::error::Result;
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::quant::QuantType;
use crate::token::Tokenizer;

const TEMPLATE: &str = "tokenizer.chat_template";
const FILE_TYPE: &str = "general.file_type";

/// Names of mixtures of tensor types, by the number that files give them.
const MIXTURES: [(u32, &str); 21] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (21, "Q2_K_S"),
    (25, "IQ4_NL"),
    (30, "IQ4_XS"),
    (32, "BF16"),
    (38, "MXFP4_MOE"),
];

#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The family that runs it: `llama`, `qwen2`, ..
    pub family: String,
    /// Tokens that an inference may hold.
    pub context: usize,
    /// Tokens of the tokenizer.
    pub vocabulary: usize,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// The mixture that the file names, or the type that most of its numbers have.
    pub quantisation: String,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// The text of the chat template, as the file has it.
    pub chat_template: Option<String>,
}

impl Facts {
    pub fn read(gguf: &Gguf, plan: &Plan, tokenizer: &Tokenizer, family: &str) -> Result<Self> {
        let parameters = gguf.tensors().iter().map(|t| t.elements() as u64).sum();
        // A template is of no use to the engine, so a wrong one is no reason to refuse the model.
        let template = gguf.metadata().str(TEMPLATE).unwrap_or_default();
        let named = gguf.metadata().u32(FILE_TYPE).unwrap_or_default();
        Ok(Self {
            family: family.to_owned(),
            context: plan.context,
            vocabulary: tokenizer.n_tokens(),
            parameters,
            quantisation: named.and_then(mixture).unwrap_or_else(|| most_used(plan)).to_owned(),
            bos: tokenizer.bos(),
            eos: tokenizer.eos(),
            chat_template: template.map(str::to_owned),
        })
    }
}

fn mixture(number: u32) -> Option<&'static str> {
    MIXTURES.iter().find(|m| m.0 == number).map(|m| m.1)
}

/// The type of most of the numbers that the model computes with.
fn most_used(plan: &Plan) -> &'static str {
    let count = |ty: QuantType| -> u64 {
        let weights = plan.weights.iter().filter(|w| w.ty == ty);
        weights.map(|w| w.cols as u64 * w.rows as u64 * w.experts as u64).sum()
    };
    QuantType::ALL.into_iter().max_by_key(|&ty| count(ty)).map_or("", QuantType::name)
}
