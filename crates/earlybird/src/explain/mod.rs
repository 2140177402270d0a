//! Rejections, told in C: [`render`] draws a refusal over the source in the manner of a compiler's error,
//! [`page`] is the page behind each rule.

mod pages;
mod render;
mod source;

pub use pages::page;
pub use render::{Style, render};
