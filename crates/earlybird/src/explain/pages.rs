//! The pages of `docs/rules`, carried along in the program.

use bpf::verifier::rules::RuleId;

macro_rules! pages {
    ($($id:literal)*) => {
        &[$(($id, include_str!(concat!("../../../../docs/rules/EB", $id, ".md")))),*]
    };
}

/// Identifiers as they are written, with their pages.
const PAGES: &[(&str, &str)] = pages! {
    "0101" "0102" "0103" "0104" "0105" "0106" "0107" "0108" "0109" "0110" "0201" "0202"
    "0203" "0204" "0205" "0206" "0207" "0301" "0302" "0303" "0304" "0305" "0306" "0307"
    "0401" "0402" "0403" "0404" "0405" "0406" "0407" "0408" "0409" "0410" "0411" "0412"
    "0413" "0414" "0415" "0416" "0501" "0502" "0503" "0504" "0505" "0506" "0507" "0508"
    "0509" "0510" "0511" "0601" "0602" "0603" "0604" "0701" "0702" "0703" "0704" "0705"
    "0706" "0707" "0708" "0801" "0802" "0803" "0804" "0805" "0806" "0901" "0902" "0903"
    "0904" "0905" "0906" "0907" "1001" "1002" "1003" "1004" "1005" "1006"
};

/// The page of a rule.
#[must_use]
pub fn page(id: RuleId) -> Option<&'static str> {
    PAGES.iter().find(|(number, _)| number.parse() == Ok(id.0)).map(|(_, page)| *page)
}
