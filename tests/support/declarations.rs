// SPDX-License-Identifier: GPL-3.0-or-later
//! What `include/guix-offload.h` declares, as a reader of C sees it.
#![allow(dead_code, reason = "no test uses all of it")]

/// A function.
pub struct Function {
    pub name: String,
    /// Type of what it returns.
    pub result: String,
    /// Its parameters, with names.
    pub parameters: Vec<String>,
    /// Its documentation, without line ends.
    pub documentation: String,
    /// The part of the header that it is in.
    pub section: String,
}

impl Function {
    /// Returns the types alone, as `RESULT NAME(TYPE, TYPE)`.
    pub fn signature(&self) -> String {
        format!("{} {}({})", self.result, self.name, types(&self.parameters))
    }
}

/// Returns `parameters` without their names.
fn types(parameters: &[String]) -> String {
    let types: Vec<&str> = parameters
        .iter()
        .map(|parameter| match parameter.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            Some(at) => parameter[..=at].trim_end(),
            None => parameter,
        })
        .collect();
    types.join(", ")
}

/// Returns `text` with single spaces.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Splits `NAME(PARAMETERS)` and what is before it.
fn split(declaration: &str) -> Option<(String, String, Vec<String>)> {
    let (before, parameters) = declaration.strip_suffix(')')?.split_once('(')?;
    let at = before.find("guix_offload_").filter(|_| !before.contains('='))?;
    let name = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(at, |at| at + 1);
    let parameters = parameters.split(',').map(words).collect();
    Some((before[..name].trim_end().to_string(), before[name..].to_string(), parameters))
}

/// Returns the functions that `header` declares, in its order.
pub fn functions(header: &str) -> Vec<Function> {
    let mut section = String::new();
    let mut found = Vec::new();
    let (_, body) = header.split_once("extern \"C\" {").expect("the header's declarations");
    for piece in body.split("\n/*").skip(1) {
        let (comment, code) = piece.split_once("*/").unwrap_or_default();
        let Some(comment) = comment.strip_prefix('*') else {
            section = words(comment);
            continue;
        };
        let code = words(code.split(';').next().unwrap_or_default());
        if code.starts_with("typedef") || code.starts_with('#') {
            continue;
        }
        let (result, name, parameters) = split(&code).unwrap_or_else(|| panic!("what is this? {code}"));
        let documentation = words(&comment.replace("\n *", "\n"));
        found.push(Function { name, result, parameters, documentation, section: section.clone() });
    }
    found
}

/// Returns `header` without its comments and its preprocessor lines.
fn code(header: &str) -> String {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    code += rest;
    code.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Returns a line for each thing that a compiled program may depend on: functions and types of functions with the
/// types of what they take and give, handles, and the values of enums.
pub fn description(header: &str) -> Vec<String> {
    let mut lines: Vec<String> = functions(header).iter().map(Function::signature).collect();
    let code = code(header);
    for piece in code.split("typedef ").skip(1) {
        if let Some(values) = piece.strip_prefix("enum {") {
            let (values, rest) = values.split_once('}').unwrap();
            let name = rest.split(';').next().unwrap().trim();
            lines
                .extend(values.split(',').map(words).filter(|value| !value.is_empty()).map(|v| format!("{name}: {v}")));
            continue;
        }
        let declaration = words(piece.split(';').next().unwrap());
        lines.push(match declaration.split_once(")(") {
            Some((before, parameters)) => {
                let parameters: Vec<String> = parameters.trim_end_matches(')').split(',').map(words).collect();
                format!("{before})({})", types(&parameters))
            }
            None => declaration,
        });
    }
    lines.sort();
    lines
}
