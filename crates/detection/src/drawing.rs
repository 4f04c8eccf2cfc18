//! A picture and marks in, the picture with boxes, masks and labels drawn on it out.

mod font;

use data::RgbImage;
use data::contact_sheet::rectangle;
use data::targets::Rle;

/// One object to draw.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// Left, top, right and bottom edge of its box, px; drawn as far as it lies inside.
    pub edges: [f32; 4],
    /// Red, green, blue.
    pub color: [u8; 3],
    /// Its mask, of the picture's size: tinted.
    pub mask: Option<&'a Rle>,
    /// Its label, above the box where there is room; empty: none. Letters are drawn as capitals, and letters
    /// outside of ASCII as question marks.
    pub label: &'a str,
}

/// Share of the color in a mask's pixels, of 256.
const TINT: u32 = 112;

/// Draws marks on a picture: masks, then boxes, then labels, so that no label is covered. Lines and letters grow
/// with the picture's longer side.
///
/// # Panics
/// If a mask is of another size than the picture.
#[must_use]
pub fn draw(mut image: RgbImage, marks: &[Mark<'_>]) -> RgbImage {
    for mark in marks {
        if let Some(mask) = mark.mask {
            tint(&mut image, mask, mark.color);
        }
    }
    let scale = (image.width.max(image.height) / 400).max(1);
    for mark in marks {
        for inset in 0..scale {
            let inset = inset as f32;
            let [left, top, right, bottom] = mark.edges;
            // The edges of a pixel's box are 1 px apart, and the pixel is one line.
            let inner = [
                left + inset,
                top + inset,
                right - 1.0 - inset,
                bottom - 1.0 - inset,
            ];
            if inner[0] <= inner[2] && inner[1] <= inner[3] {
                rectangle(&mut image, inner, mark.color);
            }
        }
    }
    for mark in marks {
        write(&mut image, mark, scale);
    }
    image
}

fn tint(image: &mut RgbImage, mask: &Rle, color: [u8; 3]) {
    assert!(
        (mask.width(), mask.height()) == (image.width, image.height),
        "a mask of {} x {} px on a picture of {} x {} px",
        mask.width(),
        mask.height(),
        image.width,
        image.height
    );
    let pixels = image.pixels.as_chunks_mut::<3>().0;
    for (pixel, inside) in pixels.iter_mut().zip(mask.to_rows()) {
        if inside == 0 {
            continue;
        }
        for (value, color) in pixel.iter_mut().zip(color) {
            let mixed = u32::from(*value) * (256 - TINT) + u32::from(color) * TINT;
            *value = (mixed / 256) as u8;
        }
    }
}

/// Writes the label on a strip of the mark's color.
fn write(image: &mut RgbImage, mark: &Mark, scale: u32) {
    let letters: Vec<char> = mark.label.chars().collect();
    if letters.is_empty() {
        return;
    }
    let wide = (letters.len() as u32 * font::ADVANCE + 1) * scale;
    let high = (font::HEIGHT + 2) * scale;
    // Casts of floats saturate.
    let start = |edge: f32, length: u32, side: u32| (edge.max(0.0) as u32).min(side.saturating_sub(length));
    let left = start(mark.edges[0], wide, image.width);
    let above = mark.edges[1] - high as f32;
    let top = match above >= 0.0 {
        true => start(above, high, image.height),
        false => start(mark.edges[1], high, image.height),
    };
    let ink = match mark.color.map(u32::from) {
        // Luma of ITU-R BT.601.
        [red, green, blue] if 299 * red + 587 * green + 114 * blue > 140_000 => [0; 3],
        _ => [255; 3],
    };
    for y in 0..high {
        for x in 0..wide {
            let color = match is_ink(&letters, x / scale, y / scale) {
                true => ink,
                false => mark.color,
            };
            set(image, left + x, top + y, color);
        }
    }
}

/// Whether a dot of a label's strip belongs to a letter; letters begin one dot from its left and upper edge.
fn is_ink(letters: &[char], x: u32, y: u32) -> bool {
    let (Some(x), Some(y)) = (x.checked_sub(1), y.checked_sub(1)) else {
        return false;
    };
    let letter = letters.get((x / font::ADVANCE) as usize);
    letter.is_some_and(|letter| font::is_ink(*letter, x % font::ADVANCE, y))
}

fn set(image: &mut RgbImage, x: u32, y: u32, color: [u8; 3]) {
    if x < image.width && y < image.height {
        let at = (y as usize * image.width as usize + x as usize) * 3;
        image.pixels[at..at + 3].copy_from_slice(&color);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn black(width: u32, height: u32) -> RgbImage {
        RgbImage {
            width,
            height,
            pixels: vec![0; width as usize * height as usize * 3],
        }
    }

    fn mark<'a>(edges: [f32; 4], mask: Option<&'a Rle>, label: &'a str) -> Mark<'a> {
        Mark {
            edges,
            color: [200, 100, 0],
            mask,
            label,
        }
    }

    /// One letter per pixel: `#` of the color, `~` tinted, `o` white, `.` black.
    fn seen(image: &RgbImage) -> Vec<String> {
        let rows = image.pixels.chunks(image.width as usize * 3);
        rows.map(|row| {
            let letter = |pixel: &[u8]| match pixel {
                [0, 0, 0] => '.',
                [200, 100, 0] => '#',
                [87, 43, 0] => '~',
                [255, 255, 255] => 'o',
                _ => '?',
            };
            row.chunks(3).map(letter).collect()
        })
        .collect()
    }

    #[test]
    fn a_box_is_drawn_within_its_edges_and_a_mask_is_tinted() {
        // Columns 0, 1 and 2: pixel 1, 2; 0 to 2; none.
        let mask = Rle::new(6, 4, [1, 2, 1, 3, 17]).unwrap();
        let image = draw(black(6, 4), &[mark([2.0, 0.0, 6.0, 3.0], Some(&mask), "")]);
        assert_eq!(seen(&image), [".~####", "~~#..#", "~~####", "......"]);
        // A box of one pixel, one without inside, one that reaches out.
        let boxes = [[1.0, 1.0, 2.0, 2.0], [4.0, 1.0, 4.0, 3.0], [4.0, 2.0, 90.0, 90.0]];
        let image = draw(black(6, 4), &boxes.map(|edges| mark(edges, None, "")));
        assert_eq!(seen(&image), ["......", ".#....", "....##", "....##"]);
    }

    #[test]
    fn a_label_stands_above_its_box_or_else_in_it() {
        let image = draw(black(10, 14), &[mark([1.0, 9.0, 9.0, 14.0], None, "l")]);
        let expected = [
            ".#######..",
            ".#o#####..",
            ".#o#####..",
            ".#o#####..",
            ".#o#####..",
            ".#o#####..",
            ".#o#####..",
            ".#ooooo#..",
            ".#######..",
        ];
        assert_eq!(seen(&image)[..9], expected);
        // No room above: within. No room to the right: moved to the left.
        let image = draw(black(10, 14), &[mark([6.0, 2.0, 9.0, 14.0], None, "L")]);
        assert!(seen(&image)[2].starts_with("...#######") && seen(&image)[1].starts_with(".........."));
        assert_eq!(seen(&image)[9], "...#ooooo#");
        // Longer than the picture, and outside of it.
        for edges in [[0.0, 0.0, 5.0, 5.0], [500.0, 500.0, 600.0, 600.0]] {
            let image = draw(black(10, 14), &[mark(edges, None, "raccoon 0.97 é")]);
            assert_eq!(image.pixels.len(), 10 * 14 * 3);
        }
    }

    #[test]
    #[should_panic(expected = "a mask of 4 x 6 px on a picture of 6 x 4 px")]
    fn a_mask_of_another_size_is_a_defect_of_the_caller() {
        let mask = Rle::empty(4, 6);
        let _ = draw(black(6, 4), &[mark([0.0; 4], Some(&mask), "")]);
    }
}
