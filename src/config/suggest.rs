//! "Did you mean": the known word nearest to the one that was typed.

/// The candidate with the smallest edit distance to `typed`, where it is near enough to be what was meant.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lowered = typed.to_ascii_lowercase().replace('_', "-");
    let ranked = candidates
        .into_iter()
        .map(|candidate| (distance(&lowered, candidate), candidate));
    let (distance, candidate) = ranked.min_by_key(|&(distance, _)| distance)?;
    // A third of the letters may be wrong; more is a guess that misleads.
    (distance <= candidate.chars().count().max(3) / 3).then_some(candidate)
}

/// Optimal string alignment: insert, delete, replace, or swap two neighbours, each costs one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant_and_does_not_guess() {
        let keys = ["local", "remote", "local-address", "metric", "esp", "ike"];
        assert_eq!(nearest("remot", keys), Some("remote"));
        assert_eq!(nearest("remtoe", keys), Some("remote"));
        assert_eq!(nearest("local_address", keys), Some("local-address"));
        assert_eq!(nearest("LOCAL", keys), Some("local"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }
}
