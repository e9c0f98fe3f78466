// SPDX-License-Identifier: GPL-3.0-or-later
//! Machine files to test with. In them, `@` stands for the fields besides the name that every machine needs, and `KEY`
//! for a host key.

/// Files that are understood in process.
pub(super) const PLAIN: &[&str] = &[
    "(list)",
    "'()",
    "(quote ())",
    "; nothing but a comment\n(list) ; and another",
    "(list (build-machine (name \"a\") @))",
    "(list (build-machine (name \"a\") @) (build-machine (name \"b\") @ (port 2222)))",
    "(define a (build-machine (name \"a\") @))\n(list a a)",
    "(define a (build-machine (name \"a\") @))\n(define all (list a))\nall",
    "(define a (build-machine (name \"a\") @))\n(list a (build-machine (inherit a) (name \"b\")))",
    "(define a (build-machine (name \"a\") @))\n(list (build-machine (inherit a) (port 1) (port 2)))",
    "(define a (build-machine (name \"a\") @))\n(define b (build-machine (inherit a) (speed 2)))\n\
     (list (build-machine (inherit b) (port 3)))",
    "(list (build-machine (inherit (build-machine (name \"a\") @)) (name \"b\")))",
    "(define key \"KEY\")\n(list (build-machine (name \"a\") (user \"u\") (systems '(\"s\" \"t\")) (host-key key)))",
    "(define domain \".example.org\")\n(list (build-machine (name (string-append \"a\" domain)) @))",
    "(list (build-machine (name (string-append)) @))",
    "(list (build-machine (name (string-append \"a\" (string-append \"b\" \"c\") \"\")) @))",
    "(list (build-machine (name \"a\") (user name) (system \"s\") (host-key \"KEY\")))",
    "(define user \"u\")(list (build-machine (name \"a\") (user user) (system \"s\") (host-key \"KEY\")))",
    "(define name \"outer\")(list (build-machine (user name) (name \"a\") (system user) (host-key \"KEY\")))",
    "(define a \"1\")(define b a)(define a \"2\")(list (build-machine (name b) @) (build-machine (name a) @))",
    "(list (build-machine (name \"a\") @ (system \"ignored\")))",
    "(list (build-machine (name \"a\") (systems #f) (system \"s\") (user \"u\") (host-key \"KEY\")))",
    "(list (build-machine (name \"a\") @ (speed 2) (parallel-builds 0) (port 65535) (compression-level 9)))",
    "(list (build-machine (name \"a\") @ (speed 0.1) (overload-threshold 0.30)))",
    "(list (build-machine (name \"a\") @ (speed 12345678.12345) (overload-threshold #f)))",
    "(list (build-machine (name \"a\") @ (overload-threshold 1)))",
    "(list (build-machine (name \"a\") @ (features '()) (compression \"none\") (daemon-socket \"/s\")))",
    "(list (build-machine (name \"a\") @ (features (list \"kvm\" (string-append \"b\" \"ig\"))) (private-key \"/k\")))",
    "(define f '(\"kvm\"))(list (build-machine (name \"a\") @ (features f)))",
    "(list (build-machine (name \"z\u{fc}rich\") @ (private-key \"/a \\\"\\\\ b/\u{20ac}\")))",
    "(list\t(build-machine\n\t  (name \"a\")\r\n @))",
    "(use-modules (guix scripts offload))\n(list (build-machine (name \"a\") @))",
    "(use-modules (guix offload) (guix scripts offload))\n(list (build-machine (name \"a\") @))",
    "(list (build-machine (name \"a\") @ (speed 2.) (overload-threshold 0.)))",
    "(list #;(build-machine (name \"a\") @) (build-machine (name \"b\") #;(port 1) @ #;(speed 2.)))\n#;(list)",
    "(list\n #;(build-machine (name \"\u{e9}\")\n @) (build-machine (name \"a\") @ (port \"22\")))",
    "(list\n\n #;(build-machine (name \"a\") @)\n)",
    "((__ (srfi srfi-1) append-map) (lambda (entry) (if (build-machine? entry) (list entry) entry))\n\
     (list (build-machine (name \"a\") @) (list (build-machine (name \"b\") @) (build-machine (name \"c\") @)) '()))",
    "(define b (build-machine (name \"b\") @))\
     ((__ (srfi srfi-1) append-map) (lambda (x) (if (build-machine? x) (list x) x))\
     (list b (list 42 (build-machine (name \"a\") @)) b))",
    "(define broken (build-machine (name 42) (no-such-field 1) (port) bare))\n(list (build-machine (name \"a\") @))",
    "(define broken (build-machine))\n(list (build-machine (inherit broken) (name \"a\") @))",
    "(define broken (build-machine (port \"22\")))\n(list (build-machine (inherit broken) (port 22) (name \"a\") @))",
    // And files whose errors must be the same, word for word.
    "",
    "(define a (list))",
    "(build-machine (name \"a\") @)",
    "'((build-machine (name \"a\") @))",
    "(list (build-machine (name \"a\") @) \"b\")",
    "42",
    "(list (build-machine))",
    "(list (build-machine (name \"a\") @ (port 1) (port 2)))",
    "(list (build-machine (name \"a\") @ (prot 22)))",
    "(list (build-machine (name \"a\") @\n (port \"22\")))",
    "(list (build-machine (name \"a\") @\n (port 22.5)))",
    "(list (build-machine (name \"a\") @\n (port 22.)))",
    "(list (build-machine (name \"a\") @ (port 22 23)))",
    "(list (build-machine (name \"a\") @ (port)))",
    "(list\n (build-machine (name \"a\") @ port))",
    "(list\n (build-machine (name \"a\") @ (\"port\" 22)))",
    "(list (build-machine (name \"a\") @ (location #f)))",
    "(list (build-machine (name \"a\") @ (features \"kvm\")))",
    "(list (build-machine (name \"a\") @ (features '(\"kvm\" big))))",
    "(list (build-machine (name \"a\") @ (speed -1)))",
    "(list (build-machine @ (name 'a)))",
    "(list (build-machine (name \"a\") (inherit \"b\") @))",
    "(list (build-machine (inherit \"b\") (name \"a\") @))",
    "(list (build-machine (name \"a\") (user \"u\") (system \"s\") (host-key \"ssh-ed25519 AAAA\")))",
];

/// Files that are left to Guile, and the names that their machines have.
pub(super) const PROGRAMS: &[(&str, &str)] = &[
    ("(map (lambda (n) (build-machine (name n) @)) '(\"a\" \"b\"))", "a b"),
    ("(list (build-machine (name \"a\") @ (speed 1/2)))", "a"),
    ("(list (build-machine (name \"a\") @ (overload-threshold #false)))", "a"),
    ("(list (build-machine (name \"a\") @ (overload-threshold .5)))", "a"),
    ("(list (build-machine (name \"a\") @ (port #x16)))", "a"),
    ("(list (build-machine (name \"\\x41;\") @))", "A;"),
    ("(list (build-machine (name \"a\\\n   b\") @))", "a   b"),
    ("#!/usr/bin/guile\n!#\n(list (build-machine (name \"a\") @))", "a"),
    ("#| block |# (list #;(ignored) (build-machine (name \"a\") @))", "a"),
    ("(list #;#;1 2 (build-machine (name \"a\") @))", "a"),
    ("(define if list) (list (build-machine (name \"a\") @))", "a"),
    ("((__ (srfi srfi-1) append-map) list (list (build-machine (name \"a\") @)))", "a"),
    (
        "((__ (srfi srfi-1) append-map) (lambda (e) (if (list? e) e (list e))) (list (build-machine (name \"a\") @)))",
        "a",
    ),
    (
        "(define build-machine? null?) ((__ (srfi srfi-1) append-map) (lambda (e) (if (build-machine? e) (list e) e)) \
         (list (list (build-machine (name \"a\") @))))",
        "a",
    ),
    ("(define-module (my farm) #:use-module (guix offload)) (list (build-machine (name \"a\") @))", "a"),
    ("(use-modules ((guix offload) #:prefix o:)) (list (o:build-machine (name \"a\") @))", "a"),
    ("(let ((n \"a\")) (list (build-machine (name n) @)))", "a"),
    ("(define (m n) (build-machine (name n) @)) (cons (m \"a\") (list (m \"b\")))", "a b"),
    ("`(,(build-machine (name \"a\") @))", "a"),
    ("(define-syntax-rule (m n) (build-machine (name n) @)) (list (m \"a\"))", "a"),
    ("(use-modules (srfi srfi-1)) (append-map (lambda (n) (list (build-machine (name n) @))) '(\"a\"))", "a"),
    ("(use-modules ((guix scripts offload) #:select (build-machine))) (list (build-machine (name \"a\") @))", "a"),
    ("(define a (build-machine (name \"a\") @)) (list (build-machine (inherit a) (name (build-machine-user a))))", "u"),
    ("(define a (build-machine (name \"a\") @)) (filter (lambda (m) (= 22 (build-machine-port m))) (list a))", "a"),
    ("(display \"(end 0)\") (newline) (list (build-machine (name \"a\") @))", "a"),
    ("(define list vector) (vector->list (list (build-machine (name \"a\") @)))", "a"),
    (
        "(define \u{3bb}x \"\u{3bb} \\\" \\\\ \\t \u{1f600}\") (list (build-machine (name \u{3bb}x) @))",
        "\u{3bb} \" \\ \t \u{1f600}",
    ),
    ("(list (build-machine (name (or (getenv \"GUILE_AUTO_COMPILE\") \"no\")) @))", "0"),
    ("\u{c}\n(list (build-machine (name \"a\") @))", "a"),
];

/// A text, and how its error starts: place, machine, field, and what was expected.
pub(super) const ERRORS: &[(&str, &str)] = &[
    (
        "(list (build-machine (name \"a\") @\n  (port \"22\")))",
        "m.scm:2:2: machine 'a', field 'port': expected an integer from 1 to 65535, got the string \"22\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n\t(port 0)))",
        "m.scm:2:8: machine 'a', field 'port': expected an integer from 1 to 65535, got 0",
    ),
    (
        "(list (build-machine (name \"a\") @\n (port 65536)))",
        "m.scm:2:1: machine 'a', field 'port': expected an integer",
    ),
    (
        "(list (build-machine (name \"a\") @\n (compression-level 10)))",
        "m.scm:2:1: machine 'a', field 'compression-level': expected an integer from 0 to 9, got 10",
    ),
    (
        "(list (build-machine (name \"a\") @\n (parallel-builds -1)))",
        "m.scm:2:1: machine 'a', field 'parallel-builds': expected an integer from 0 to 4294967295, got -1",
    ),
    (
        "(list (build-machine (name \"a\") @\n (speed #t)))",
        "m.scm:2:1: machine 'a', field 'speed': expected a number that is not negative, got #t",
    ),
    (
        "(list (build-machine (name \"a\") @\n (overload-threshold \"80%\")))",
        "m.scm:2:1: machine 'a', field 'overload-threshold': expected a number that is not negative, or #f, \
         got the string",
    ),
    (
        "(list (build-machine (name \"a\") @\n (features \"kvm\")))",
        "m.scm:2:1: machine 'a', field 'features': expected a list of strings, got the string \"kvm\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n (features '(\"kvm\" 7))))",
        "m.scm:2:1: machine 'a', field 'features': expected a list of strings, but element 2 of it is 7",
    ),
    (
        "(list (build-machine (name \"a\") @\n (daemon-socket \"\")))",
        "m.scm:2:1: machine 'a', field 'daemon-socket': expected a string that is not empty and has no control \
         characters, got the string \"\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n (privat-key \"/k\")))",
        "m.scm:2:1: machine 'a', field 'privat-key': there is no such field",
    ),
    (
        "(list (build-machine (name \"a\") @\n (user \"v\")))",
        "m.scm:2:1: machine 'a', field 'user': the field is given twice",
    ),
    (
        "(list (build-machine (name \"a\") @\n (port 22 23)))",
        "m.scm:2:1: machine 'a', field 'port': expected one value, as in (port VALUE)",
    ),
    (
        "(list\n (build-machine (name \"a\") (system \"s\") (user \"u\")))",
        "m.scm:2:1: machine 'a': field 'host-key' is missing",
    ),
    (
        "(list\n (build-machine (name \"a\") (user \"u\") (host-key \"KEY\")))",
        "m.scm:2:1: machine 'a': field 'systems' is missing",
    ),
    ("(list (build-machine @))", "m.scm:1:6: build-machine without a name: field 'name' is missing"),
    (
        "(list (build-machine (name 'a) @))",
        "m.scm:1:21: build-machine without a name, field 'name': expected a string that is not empty, got the symbol a",
    ),
    ("(list (build-machine (name \"a/b\") @))", "m.scm:1:21: machine 'a/b', field 'name': expected a host name"),
    (
        "(list (build-machine (name \"w1:2222\") @))",
        "m.scm:1:21: machine 'w1:2222', field 'name': expected a host name or an address without a port, \
         got the string",
    ),
    (
        "(list (build-machine (name \"[10.0.0.2]\") @))",
        "m.scm:1:21: machine '[10.0.0.2]', field 'name': expected a host name or an address; only an IPv6 address may",
    ),
    (
        "(list (build-machine (name \"5\") @))",
        "m.scm:1:21: machine '5', field 'name': expected a host name or an address, not a number that resolvers take",
    ),
    (
        "(list (build-machine (name \"<host name>\") @))",
        "m.scm:1:21: machine '<host name>', field 'name': expected a host",
    ),
    (
        "(list (build-machine (name \"a\") @\n (daemon-socket \"relative\")))",
        "m.scm:2:1: machine 'a', field 'daemon-socket': expected an absolute file name, got the string \"relative\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n (features '(\"a\nb\"))))",
        "m.scm:2:1: machine 'a', field 'features': expected a list of strings that are not empty and have no control",
    ),
    (
        "(list (build-machine (name \"a\") (system \"s\nt\")\n (user \"u\") (host-key \"KEY\")))",
        "m.scm:1:32: machine 'a', field 'system': expected a list of strings that are not empty and have no control",
    ),
    ("(list (build-machine (name \"..\") @))", "m.scm:1:21: machine '..', field 'name': expected a host name"),
    (
        "(list (build-machine (name \"a\") (user \"u\") (system \"s\")\n (host-key \"ssh-rsa AAAA\")))",
        "m.scm:2:1: machine 'a', field 'host-key': \"ssh-rsa AAAA\" is not a host key",
    ),
    (
        "(list (build-machine (name \"a\") (user \"u\") (system \"s\")\n (host-key 42)))",
        "m.scm:2:1: machine 'a', field 'host-key': expected a string",
    ),
    (
        "(list (build-machine (inherit \"b\")\n (name \"a\") @))",
        "m.scm:1:21: machine 'a', field 'inherit': expected a build machine, got the string \"b\"",
    ),
    ("(list (build-machine (inherit) (name \"a\") @))", "m.scm:1:21: machine 'a', field 'inherit': expected one value"),
    (
        "(list (build-machine (name \"a\")\n (inherit \"b\") @))",
        "m.scm:2:1: machine 'a', field 'inherit': it must come first",
    ),
    ("(list)\n\n 42", "m.scm:3:1: the file must return a list of build machines, but this last form returns 42"),
    (
        "(list (build-machine (name \"a\") @) 'b)",
        "m.scm:1:0: the file must return a list of build machines, but this last form returns a list whose \
         element 2 is the symbol b",
    ),
    ("", "m.scm:1:0: the file must return a list of build machines, but this last form returns no value"),
];

/// Errors of programs: a text, and how its error starts.
pub(super) const GUILE_ERRORS: &[(&str, &str)] = &[
    (
        "(list (build-machine (name \"a\") @\n (features (list (string #\\a #\\esc)))))",
        "m.scm:2:1: machine 'a', field 'features': expected a list of strings that are not empty and have no control \
         characters, got a list whose element 1 is the string \"a\\u{1b}\"",
    ),
    (
        "(list (build-machine (name (string #\\w #\\nul)) @))",
        "m.scm:1:21: machine 'w\\0', field 'name': expected a host name or an address, got the string \"w\\0\"",
    ),
    ("(define x 1)\n (list nobody)", "m.scm:2:1: Unbound variable: nobody"),
    ("(list (build-machine\n  (name nobody)))", "m.scm:2:2: Unbound variable: nobody"),
    ("(list (build-machine (name \"a\")\n  (user (car '()))))", "m.scm:2:2: In procedure car: "),
    ("(list\n (let ((x)) x))", "m.scm:2:1: "),
    ("(list\n (foo", "m.scm:2:5: unexpected end of input"),
    ("(list \"foo", "m.scm:1:10: unexpected end of input"),
    ("(list))", "m.scm:1:7: unexpected \")\""),
    ("(use-modules\n (no such module))", "m.scm:1:0: no code for module (no such module)"),
    ("(error \"I give up:\" 'now)", "m.scm:1:0: I give up: now"),
    ("(throw 'strange 1 2)", "m.scm:1:0: Throw to key `strange' with args `(1 2)'"),
    ("(list)\n (exit 3)", "m.scm:2:1: the file calls 'exit'"),
    ("(list)(primitive-_exit 3)", "m.scm:1:0: Guile ended without a result"),
    ("(values 1/2)", "m.scm:1:0: the file must return a list of build machines, but this last form returns 0.5"),
    (
        "(list car)",
        "m.scm:1:0: the file must return a list of build machines, but this last form returns a list whose \
         element 1 is #<procedure car",
    ),
    (
        "(map (lambda (n)\n (build-machine (name n) @ (speed (/ -1 2)))) '(\"a\"))",
        "m.scm:2:162: machine 'a', field 'speed': expected a number that is not negative, got -0.5",
    ),
    (
        "(cons* (build-machine (name \"a\") @\n (port 'x)) '())",
        "m.scm:2:1: machine 'a', field 'port': expected an integer",
    ),
    ("(let ((l (list 1))) (set-cdr! l l) l)", "m.scm:1:0: the file must return a list of build machines"),
    (
        "(list (build-machine (name \"a\") @ (features (iota 1000))))",
        "m.scm:1:169: machine 'a', field 'features': expected a list of strings, got a list of 1000 elements",
    ),
];
