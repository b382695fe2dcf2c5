//! Pictures of what was measured: SVG, or PNG by the name of the file.
//!
//! A figure draws itself on whatever backend there is. The PNG's letters come from a TrueType font of the machine, as
//! none is carried along; an SVG leaves them to whoever shows it.

use crate::exit::Failure;
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::style::{FontStyle, WHITE, register_font};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where machines keep a font with the letters that a plot needs.
const FONTS: &[&str] = &[
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/Library/Fonts/Arial.ttf",
];

/// The family of every text of a figure.
pub const FAMILY: &str = "sans-serif";

/// Something that can be drawn.
pub trait Figure {
    /// Draws it on a white area.
    ///
    /// # Errors
    /// What the backend says.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<(), String>;
}

/// Writes a figure to `*.svg` or `*.png`, under another name until it is whole.
///
/// # Errors
/// Another ending, a file that cannot be written, or no font for a PNG.
pub fn save(figure: &impl Figure, path: &Path, size: (u32, u32), font: Option<&Path>) -> Result<(), Failure> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
    let bytes = match ending.as_str() {
        "svg" => svg(figure, size)?.into_bytes(),
        "png" => png(figure, size, font)?,
        _ => return Err(Failure::usage(format!("{}: the name must end in .svg or .png", path.display()))),
    };
    let fail = |e: std::io::Error| Failure::usage(format!("{} cannot be written: {e}", path.display()));
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut file = File::create(&part).map_err(fail)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&part, path).map_err(fail)
}

fn drawn<DB: DrawingBackend>(figure: &impl Figure, area: &DrawingArea<DB, Shift>) -> Result<(), Failure> {
    let fail = |what: String| Failure::internal(format!("the plot cannot be drawn: {what}"));
    area.fill(&WHITE).map_err(|e| fail(e.to_string()))?;
    figure.draw(area).map_err(fail)?;
    area.present().map_err(|e| fail(e.to_string()))
}

fn svg(figure: &impl Figure, size: (u32, u32)) -> Result<String, Failure> {
    let mut text = String::new();
    // Text is measured with the machine's font where there is one, and estimated where there is none.
    let _ = load_font(None);
    drawn(figure, &SVGBackend::with_string(&mut text, size).into_drawing_area())?;
    Ok(text)
}

fn png(figure: &impl Figure, (width, height): (u32, u32), font: Option<&Path>) -> Result<Vec<u8>, Failure> {
    load_font(font)?;
    let pixels = usize::try_from(width).unwrap_or(0).saturating_mul(usize::try_from(height).unwrap_or(0));
    let mut buffer = vec![0; pixels.saturating_mul(3)];
    drawn(figure, &BitMapBackend::with_buffer(&mut buffer, (width, height)).into_drawing_area())?;
    let mut bytes = Vec::new();
    let fail = |e: png::EncodingError| Failure::internal(format!("the plot cannot be encoded: {e}"));
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&buffer).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

/// The font is registered for the whole process, and so lives as long.
fn load_font(given: Option<&Path>) -> Result<(), Failure> {
    let known = || FONTS.iter().map(PathBuf::from).find(|path| path.is_file());
    let path = given.map(Path::to_path_buf).or_else(known).ok_or_else(|| {
        Failure::usage("no TrueType font was found for the PNG's letters: name one with --font, or write an .svg")
    })?;
    let bytes = std::fs::read(&path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let wrong = |_| Failure::usage(format!("{} is no TrueType font", path.display()));
    register_font(FAMILY, FontStyle::Normal, Vec::leak(bytes)).map_err(wrong)
}
