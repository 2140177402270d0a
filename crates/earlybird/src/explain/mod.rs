//! Rejections, told in C: [`render`] draws a refusal over the source in the manner of a compiler's error,
//! [`page`] is the page behind each rule, and [`reason_page`] behind each reason why a packet ends.

mod pages;
mod render;
mod source;

pub use pages::{page, reason_of, reason_page};
pub use render::{Style, render};
