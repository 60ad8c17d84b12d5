//! `alcedo plan`: how much memory of a GPU the models of a repository would take.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::control::table;
use super::error::CliError;
use super::print;
use crate::instance::{BatchForecast, ForecastOptions, MemoryForecast, forecast_memory};
use crate::repository::{ReadModel, read_repositories};

/// Flags of `alcedo plan`.
#[derive(Args, Clone, Debug)]
pub(super) struct PlanArgs {
    /// Model repository, or one Hugging Face directory.
    #[arg(value_name = "REPOSITORY")]
    repository: PathBuf,
    /// Memory that models may take: what is free on the GPU before the first is loaded, such as 24GiB or 80GB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    gpu_memory: usize,
    /// What numbers are stored in, in place of what the configurations say.
    #[arg(long, value_name = "f32|f16|bf16", value_parser = ["f32", "f16", "bf16"], hide_possible_values = true)]
    dtype: Option<String>,
    /// Tokens of the largest batch, in place of what the configurations say.
    #[arg(long, value_name = "COUNT")]
    max_tokens: Option<NonZeroUsize>,
}

/// Parses a number of bytes: `1073741824`, `24GiB`, `80GB`, `1.5G`.
fn parse_size(text: &str) -> Result<usize, String> {
    const EXPECTED: &str = "expected a size such as 24GiB, 80GB or a number of bytes";
    const UNITS: [(&str, u64); 9] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((upper.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((&upper, 1));
    let number: f64 = number.trim().parse().map_err(|_| EXPECTED.to_owned())?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let bytes = (number * unit as f64).round() as u64;
    let is_sensible = number.is_finite() && bytes > 0 && bytes < 1 << 50;
    usize::try_from(bytes).ok().filter(|_| is_sensible).ok_or_else(|| EXPECTED.to_owned())
}

/// What became of one version of a model.
struct Line {
    model: String,
    version: String,
    forecast: Result<Option<MemoryForecast>, String>,
}

/// Runs `alcedo plan`.
///
/// # Errors
/// [`CliError::Plan`]: a model cannot be read, or not all models fit together.
pub(super) fn run(args: &PlanArgs) -> Result<(), CliError> {
    let repository = &args.repository;
    repository.metadata().map_err(|error| CliError::Read { path: repository.clone(), reason: error.to_string() })?;
    let lines: Vec<Line> = read_repositories(std::slice::from_ref(repository))
        .into_iter()
        .flat_map(|(model, read)| match read {
            Ok(read) => versions(&model, &read, args),
            Err(reason) => vec![Line { model, version: "-".to_owned(), forecast: Err(reason) }],
        })
        .collect();
    print(&to_text(&lines, args.gpu_memory))?;
    verdict(&lines, args.gpu_memory).map_or(Ok(()), |problem| Err(CliError::Plan(problem)))
}

fn versions(model: &str, read: &ReadModel, args: &PlanArgs) -> Vec<Line> {
    let options = ForecastOptions {
        dtype: args.dtype.as_deref(),
        max_tokens: args.max_tokens.map(NonZeroUsize::get),
        gpu_bytes: args.gpu_memory,
    };
    let line = |(version, directory): (&u64, &PathBuf)| Line {
        model: model.to_owned(),
        version: version.to_string(),
        forecast: forecast_memory(&read.config, directory, &options).map_err(|error| error.to_string()),
    };
    read.versions.iter().map(line).collect()
}

fn forecasts(lines: &[Line]) -> impl Iterator<Item = (&Line, &MemoryForecast)> {
    lines.iter().filter_map(|line| Some((line, line.forecast.as_ref().ok()?.as_ref()?)))
}

/// What all models take together, each with the largest batches that its configuration asks for.
fn total(lines: &[Line]) -> usize {
    forecasts(lines).filter_map(|(_, forecast)| Some(forecast.batches.last()?.total)).fold(0, usize::saturating_add)
}

/// What is wrong, if something is.
fn verdict(lines: &[Line], gpu_bytes: usize) -> Option<String> {
    let failed = lines.iter().filter_map(|line| Some(format!("{}: {}", line.model, line.forecast.as_ref().err()?.trim_end())));
    let failed: Vec<String> = failed.collect();
    if !failed.is_empty() {
        return Some(format!("some models cannot be planned for:\n{}", failed.join("\n")));
    }
    let needed = total(lines);
    (needed > gpu_bytes).then(|| format!("the models do not fit: they take {}, and there are {}", size(needed), size(gpu_bytes)))
}

fn to_text(lines: &[Line], gpu_bytes: usize) -> String {
    const HEADER: [&str; 11] =
        ["MODEL", "VERSION", "DTYPE", "LANES", "TOKENS", "WEIGHTS", "ACTIVATIONS", "WORKSPACE", "GRAPHS", "TOTAL", "PINNED"];
    let mut cells = vec![[&HEADER[..], &["FITS"]].concat()];
    let rows: Vec<Vec<String>> = forecasts(lines).flat_map(|(line, forecast)| rows(line, forecast)).collect();
    let is_empty = rows.is_empty();
    cells.extend(rows.iter().map(|row| row.iter().map(String::as_str).collect()));
    let mut text = String::new();
    if is_empty {
        text.push_str("no model would run on a GPU\n");
    } else {
        let cells: Vec<[String; 12]> =
            cells.iter().map(|row| std::array::from_fn(|at| row.get(at).copied().unwrap_or_default().to_owned())).collect();
        text.push_str(&table(&cells));
        text.push_str(&format!("\nall models with their largest batches: {} of {}\n", size(total(lines)), size(gpu_bytes)));
    }
    for line in lines.iter().filter(|line| matches!(line.forecast, Ok(None))) {
        text.push_str(&format!("{} takes no memory of a GPU\n", line.model));
    }
    text
}

fn rows(line: &Line, forecast: &MemoryForecast) -> Vec<Vec<String>> {
    let last = forecast.batches.len().saturating_sub(1);
    let row = |(at, batch): (usize, &BatchForecast)| {
        let named = if at == 0 { [&line.model, &line.version, forecast.dtype] } else { [""; 3] };
        let lanes = if at == 0 { forecast.lanes.to_string() } else { String::new() };
        let mut cells: Vec<String> = named.iter().map(|&cell| cell.to_owned()).chain([lanes, batch.tokens.to_string()]).collect();
        let bytes = [forecast.weights, batch.activations, batch.workspace, batch.graphs, batch.total, batch.pinned];
        cells.extend(bytes.map(size));
        cells.push(match (batch.fits, forecast.largest_tokens) {
            (true, _) => "yes".to_owned(),
            (false, Some(tokens)) if at == last => format!("no, at most max_batch_tokens {tokens}"),
            (false, None) if at == last => "no, not even its longest item".to_owned(),
            (false, _) => "no".to_owned(),
        });
        cells
    };
    forecast.batches.iter().enumerate().map(row).collect()
}

/// A number of bytes as people read it.
pub(super) fn size(bytes: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn sizes_are_written_as_people_write_them() {
        let sizes = [("24GiB", 24 << 30), ("80GB", 80_000_000_000), ("1.5 gib", 3 << 29), ("4096", 4096), ("7B", 7)];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "-1GiB", "0", "24GX", "nan", "inf", "9999999TiB"] {
            assert!(parse_size(wrong).unwrap_err().contains("24GiB"), "{wrong}");
        }
    }

    fn line(model: &str, totals: &[(usize, usize, bool)], largest_tokens: Option<usize>) -> Line {
        let batch = |(tokens, total, fits): &(usize, usize, bool)| BatchForecast {
            tokens: *tokens,
            items: 64,
            activations: 3 << 20,
            workspace: 32 << 20,
            graphs: 1 << 20,
            pinned: 1 << 19,
            total: *total,
            fits: *fits,
        };
        let batches = totals.iter().map(batch).collect();
        let forecast = MemoryForecast { dtype: "f16", lanes: 2, weights: 43 << 20, batches, largest_tokens };
        Line { model: model.to_owned(), version: "1".to_owned(), forecast: Ok(Some(forecast)) }
    }

    #[test]
    fn the_table_tells_what_fits_and_what_would() {
        let mut lines = vec![
            line("large", &[(512, 1 << 30, true), (16_384, 5 << 30, false)], Some(8192)),
            line("small", &[(16_384, 1 << 30, true)], Some(16_384)),
        ];
        lines.push(Line { model: "words".to_owned(), version: "1".to_owned(), forecast: Ok(None) });
        expect![[r#"
            MODEL  VERSION  DTYPE  LANES  TOKENS  WEIGHTS   ACTIVATIONS  WORKSPACE  GRAPHS   TOTAL    PINNED     FITS
            large  1        f16    2      512     43.0 MiB  3.0 MiB      32.0 MiB   1.0 MiB  1.0 GiB  512.0 KiB  yes
                                          16384   43.0 MiB  3.0 MiB      32.0 MiB   1.0 MiB  5.0 GiB  512.0 KiB  no, at most max_batch_tokens 8192
            small  1        f16    2      16384   43.0 MiB  3.0 MiB      32.0 MiB   1.0 MiB  1.0 GiB  512.0 KiB  yes

            all models with their largest batches: 6.0 GiB of 4.0 GiB
            words takes no memory of a GPU
        "#]]
        .assert_eq(&to_text(&lines, 4 << 30));
        assert_eq!(verdict(&lines, 4 << 30).unwrap(), "the models do not fit: they take 6.0 GiB, and there are 4.0 GiB");
        assert_eq!(verdict(&lines, 6 << 30), None);
        lines.push(Line { model: "broken".to_owned(), version: "-".to_owned(), forecast: Err("no files".to_owned()) });
        assert_eq!(verdict(&lines, 6 << 30).unwrap(), "some models cannot be planned for:\nbroken: no files");
    }
}
