//! The pages of `docs/rules`, carried along in the program.

use bpf::verifier::rules::RuleId;
use xdp::DropReason;

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

/// Likewise, of the reasons why packets end.
const REASON_PAGES: &[(&str, &str)] = pages! {
    "2001" "2002" "2003" "2004" "2005" "2006" "2007" "2008" "2009" "2010" "2011" "2012"
    "2013" "2014" "2015" "2016" "2017" "2018" "2019" "2020" "2021" "2022" "2023" "2024"
    "2025" "2026" "2027" "2028" "2029" "2030" "2031" "2032" "2033" "2034" "2035" "2036"
    "2037" "2038" "2039" "2040" "2041" "2042" "2043" "2044" "2045" "2046" "2047" "2048"
    "2049" "2050" "2051" "2052" "2053" "2054" "2055"
};

/// The page of a reason why a packet ended.
#[must_use]
pub fn reason_page(reason: DropReason) -> &'static str {
    let found = REASON_PAGES.iter().find(|(number, _)| number.parse() == Ok(reason.number()));
    found.map_or("", |(_, page)| *page)
}

/// The reason of an identifier, `EB2021` or `xmit-no-receiver`, also as the counter that it has.
#[must_use]
pub fn reason_of(text: &str) -> Option<DropReason> {
    let number = RuleId::parse(text).map(|id| id.0);
    let name = text.strip_prefix("drop.").unwrap_or(text);
    DropReason::ALL.into_iter().find(|r| Some(r.number()) == number || r.id() == name)
}

/// The page of a rule.
#[must_use]
pub fn page(id: RuleId) -> Option<&'static str> {
    PAGES.iter().find(|(number, _)| number.parse() == Ok(id.0)).map(|(_, page)| *page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_page_that_says_what_the_reason_says() {
        assert_eq!(REASON_PAGES.len(), DropReason::COUNT, "a page for each reason, and no other");
        for reason in DropReason::ALL {
            let (page, id) = (reason_page(reason), format!("EB{}", reason.number()));
            assert!(page.starts_with(&format!("# {id}: {}\n", reason.id())), "{id}: {page}");
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in [reason.explanation(), reason.cure(), &format!("`drop.{}`", reason.id())] {
                assert!(words(page).contains(part), "{id} does not say {part:?}");
            }
            assert!(page.contains("## What the kernel shows") && page.contains("Decided in `"), "{id}");
            assert_eq!([reason_of(&id), reason_of(reason.id())], [Some(reason); 2]);
        }
        assert_eq!(reason_of("drop.xmit-no-receiver"), Some(DropReason::XmitNoReceiver));
        assert_eq!([reason_of("EB0403"), reason_of("EB2999"), reason_of("")], [None; 3]);
    }
}
