//! The text that `iptables-save` writes: chains and rules of the filter table, word by word.
//!
//! In: the file. Out: a [`Ruleset`], and the lines that are of no table or no form. Counters in front of a rule are passed over. Words are quoted as
//! iptables-save quotes them: `"` around, `\` before a `"` or a `\` inside.

/// The filter table of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Its chains in the order in which they are declared.
    pub chains: Vec<Chain>,
    /// Lines that could not be read, with the reason.
    pub faults: Vec<(u32, String, &'static str)>,
    /// Other tables that have rules, by name, with the line of the first.
    pub others: Vec<(String, u32)>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// What a built-in chain does with a packet at its end; none: a chain of the administrator's.
    pub policy: Option<Policy>,
    /// Line of its declaration.
    pub line: u32,
    /// Its rules in order.
    pub rules: Vec<Line>,
}

/// The policy of a built-in chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `ACCEPT`.
    Accept,
    /// `DROP`.
    Drop,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Number of the line, from 1.
    pub number: u32,
    /// The rule from `-A` on, as written.
    pub text: String,
    /// Its words behind the name of the chain.
    pub words: Vec<String>,
}

impl Ruleset {
    /// Reads a file; none if it has no filter table.
    pub fn parse(text: &str) -> Option<Self> {
        let mut ruleset = Self::default();
        let mut table: Option<&str> = None;
        let mut has_filter = false;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('*') {
                table = Some(name);
                has_filter |= name == "filter";
                continue;
            }
            match table {
                _ if line == "COMMIT" => table = None,
                Some("filter") => {
                    if let Err(why) = ruleset.line(number, line) {
                        ruleset.faults.push((number, line.to_owned(), why));
                    }
                }
                Some(other) => {
                    let is_known = ruleset.others.iter().any(|(name, _)| name == other);
                    if without_counters(line).starts_with("-A ") && !is_known {
                        ruleset.others.push((other.to_owned(), number));
                    }
                }
                None => {
                    let why = "the line stands in no table";
                    ruleset.faults.push((number, line.to_owned(), why));
                }
            }
        }
        has_filter.then_some(ruleset)
    }

    /// A chain by its name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    fn line(&mut self, number: u32, line: &str) -> Result<(), &'static str> {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_ascii_whitespace();
            let name = words.next().ok_or("the name of the chain is missing")?;
            let policy = match words.next() {
                Some("ACCEPT") => Some(Policy::Accept),
                Some("DROP") => Some(Policy::Drop),
                Some("-") => None,
                Some(_) | None => return Err("the policy of the chain is not known"),
            };
            let chain = self.entry(name, number);
            chain.policy = policy;
            chain.line = number;
            return Ok(());
        }
        let text = without_counters(line);
        let mut words = words(text)?.into_iter();
        if words.next().as_deref() != Some("-A") {
            return Err("it is not a line that iptables-save writes");
        }
        let name = words.next().ok_or("the name of the chain is missing")?;
        let rule = Line {
            number,
            text: text.to_owned(),
            words: words.collect(),
        };
        self.entry(&name, number).rules.push(rule);
        Ok(())
    }

    fn entry(&mut self, name: &str, line: u32) -> &mut Chain {
        let at = self.chains.iter().position(|chain| chain.name == name);
        let at = at.unwrap_or_else(|| {
            self.chains.push(Chain {
                name: name.to_owned(),
                line,
                ..Chain::default()
            });
            self.chains.len() - 1
        });
        &mut self.chains[at]
    }
}

/// The line without `[packets:bytes]` in front.
fn without_counters(line: &str) -> &str {
    let rest = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .map(|(_, rest)| rest.trim_start());
    rest.unwrap_or(line)
}

/// The words of a line, without their quotes.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => {
                let escaped = letters.next().ok_or("the line ends in a backslash")?;
                word.get_or_insert_default().push(escaped);
            }
            ' ' | '\t' if !is_quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    if is_quoted {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_the_tool_quotes_them() {
        for (line, expect) in [
            ("-A INPUT -j DROP", Ok(vec!["-A", "INPUT", "-j", "DROP"])),
            (
                r#"--comment "a \"b\" \\ c" -j X"#,
                Ok(vec!["--comment", r#"a "b" \ c"#, "-j", "X"]),
            ),
            (r#"--log-prefix """#, Ok(vec!["--log-prefix", ""])),
            (r#"--comment "open"#, Err("a quote is not closed")),
            (r#""open\"#, Err("the line ends in a backslash")),
        ] {
            let words = words(line);
            let expect = expect.map(|words| words.into_iter().map(str::to_owned).collect());
            assert_eq!(words, expect, "{line}");
        }
    }

    #[test]
    fn only_the_filter_table_is_read() {
        let text = "# by hand\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j X\nCOMMIT\n*filter\n:INPUT DROP [1:2]\n:own - [0:0]\n[3:4] -A INPUT -j own\n-X what\nCOMMIT\nstray\n";
        let ruleset = Ruleset::parse(text).unwrap();
        let names: Vec<_> = ruleset.chains.iter().map(|chain| &*chain.name).collect();
        assert_eq!(names, ["INPUT", "own"]);
        let input = ruleset.chain("INPUT").unwrap();
        assert_eq!((input.policy, input.line), (Some(Policy::Drop), 7));
        assert_eq!(input.rules[0].number, 9);
        assert_eq!(input.rules[0].text, "-A INPUT -j own");
        assert_eq!(input.rules[0].words, ["-j", "own"]);
        assert_eq!(ruleset.others, [("nat".to_owned(), 4)]);
        let faults: Vec<_> = ruleset.faults.iter().map(|(line, ..)| *line).collect();
        assert_eq!(faults, [10, 12]);
        assert_eq!(Ruleset::parse("*nat\nCOMMIT\n"), None);
    }
}
