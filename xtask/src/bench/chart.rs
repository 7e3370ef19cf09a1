//! One SVG per table: cost against size as lines where the rows of a case have sizes, else bars.
//!
//! Both axes of cost are logarithmic, because the subjects are orders of magnitude apart. The cases of a table are panels of one picture.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::part::Part;
use super::results::Results;
use super::table::{cases, points};

/// Size of a panel, in pixels.
const PANEL: (u32, u32) = (560, 340);
/// Panels side by side.
const COLUMNS: usize = 2;
/// Height of a bar with its gap.
const BAR: u32 = 22;
/// Space for a bar's name.
const NAME: i32 = 520;

/// Draws the tables that there are; says where.
pub fn draw_all(results: &Results, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut drawn = Vec::new();
    for part in Part::ALL {
        if results.of(part).next().is_none() {
            continue;
        }
        let file = directory.join(format!("{}.svg", part.name()));
        let done = match results.of(part).any(|row| row.size.is_some()) {
            true => draw_panels(results, part, &file),
            false => draw_bars(results, part, &file),
        };
        done.map_err(|error| anyhow!("drawing {}: {error}", file.display()))?;
        drawn.push(file);
    }
    Ok(drawn)
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn colour(subject: &str) -> RGBColor {
    match subject {
        "none" => RGBColor(120, 120, 120),
        "empty" => RGBColor(170, 140, 70),
        "iptables" => RGBColor(200, 60, 50),
        "nftables" => RGBColor(60, 110, 190),
        "tapwall" => RGBColor(30, 140, 70),
        _ => BLACK,
    }
}

fn draw_panels(results: &Results, part: Part, file: &Path) -> Done {
    let cases = cases(results, part);
    let rows = cases.len().div_ceil(COLUMNS);
    let size = (
        PANEL.0 * COLUMNS as u32,
        PANEL.1 * u32::try_from(rows)? + 30,
    );
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(part.title(), ("sans-serif", 20))?;
    for (panel, case) in root.split_evenly((rows, COLUMNS)).iter().zip(cases) {
        draw_panel(panel, results, part, case)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    panel: &DrawingArea<SVGBackend<'_>, Shift>,
    results: &Results,
    part: Part,
    case: &str,
) -> Done {
    let own = || results.of(part).filter(|row| row.case == case);
    let unit = own().next().map_or("", |row| row.unit.as_str());
    let of = own().find_map(|row| row.size.as_ref());
    let of = of.map_or("", |size| size.of.as_str());
    let sizes: Vec<f64> = own()
        .filter_map(|row| row.size.as_ref())
        .map(|size| size.count as f64)
        .collect();
    let costs: Vec<f64> = own()
        .flat_map(|row| [row.least(), row.most()])
        .filter(|cost| *cost > 0.0)
        .collect();
    let (least, most) = bounds(&sizes, 1.0);
    let (low, high) = bounds(&costs, 0.01);
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{case} ({unit})"), ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(75)
        .build_cartesian_2d(
            (least * 0.8..most * 1.25).log_scale(),
            (low * 0.7..high * 1.4).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(of)
        .draw()?;
    let mut subjects: Vec<&str> = Vec::new();
    for row in own() {
        if !subjects.contains(&row.subject.as_str()) {
            subjects.push(&row.subject);
        }
    }
    for subject in subjects {
        let colour = colour(subject);
        let mut line = points(results, part, case, subject);
        if line.is_empty() {
            // The same at every size.
            let row = own().find(|row| row.subject == subject);
            line = row.map_or_else(Vec::new, |row| {
                vec![(least, row.median()), (most, row.median())]
            });
        }
        line.retain(|(_, cost)| *cost > 0.0);
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(subject)
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
            });
        let dots = line.into_iter();
        chart.draw_series(dots.map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// Smallest and largest; `(otherwise, otherwise)` of nothing.
fn bounds(values: &[f64], otherwise: f64) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    (least.unwrap_or(otherwise), most.unwrap_or(otherwise))
}

fn draw_bars(results: &Results, part: Part, file: &Path) -> Done {
    let rows: Vec<_> = results.of(part).collect();
    let height = BAR * u32::try_from(rows.len())? + 60;
    let root = SVGBackend::new(file, (1100, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (_, most) = bounds(
        &rows.iter().map(|row| row.median()).collect::<Vec<_>>(),
        1.0,
    );
    root.draw_text(
        part.title(),
        &TextStyle::from(("sans-serif", 20).into_font()),
        (10, 10),
    )?;
    for (row, top) in rows.iter().zip((45..).step_by(BAR as usize)) {
        let text = TextStyle::from(("sans-serif", 13).into_font());
        let name = format!("{} ({})", row.case, row.subject);
        root.draw_text(&name, &text, (10, top))?;
        let length = (row.median().max(0.0) / most * 450.0) as i32;
        let bar = [(NAME, top), (NAME + length, top + BAR as i32 - 6)];
        root.draw(&Rectangle::new(bar, colour(&row.subject).filled()))?;
        let value = format!("{} {}", super::table::number(row.median()), row.unit);
        root.draw_text(&value, &text, (NAME + length + 6, top))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::target::tests::example;
    use super::*;

    #[test]
    fn a_chart_per_table() {
        let directory = std::env::temp_dir().join(format!("tapwall-chart-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let drawn = draw_all(&example(), &directory).unwrap();
        let names: Vec<_> = drawn.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["packet.svg", "traffic.svg"]);
        for (file, text) in drawn
            .iter()
            .zip(["established, hot, IPv4", "denied packet"])
        {
            let picture = std::fs::read_to_string(file).unwrap();
            assert!(picture.contains("<svg") && picture.contains(text), "{text}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
