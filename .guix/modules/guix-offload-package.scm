;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The package for Guix, made of this checkout: `guix build -f guix.scm', and `guix shell' for what building it needs.
;; guix.scm is a link to this file; .guix-channel makes a channel of the checkout.
(define-module (guix-offload-package)
  #:use-module (guix base16)
  #:use-module (guix gexp)
  #:use-module (guix git-download)
  #:use-module (guix packages)
  #:use-module (guix utils)
  #:use-module ((guix download) #:select (url-fetch))
  #:use-module ((guix build-system cargo) #:select (crate-uri))
  #:use-module (guix build-system gnu)
  #:use-module ((guix licenses) #:prefix license:)
  #:use-module (gnu packages)
  #:use-module ((gnu packages compression) #:select (zlib zstd))
  #:use-module ((gnu packages gnupg) #:select (libgcrypt))
  #:use-module ((gnu packages guile) #:select (guile-3.0-latest))
  #:use-module ((gnu packages package-management) #:select (guix))
  #:use-module ((gnu packages pkg-config) #:select (pkg-config))
  #:use-module ((gnu packages rust) #:select (rust))
  #:use-module ((gnu packages sqlite) #:select (sqlite))
  #:use-module ((gnu packages texinfo) #:select (texinfo))
  #:use-module ((gnu packages tls) #:select (openssl))
  #:use-module (ice-9 match)
  #:use-module (ice-9 regex)
  #:use-module ((ice-9 textual-ports) #:select (get-string-all)))

(define %root
  (dirname (dirname (current-source-directory))))

(define (matches pattern file)
  "The lists of what the parentheses of PATTERN match in FILE, a file of this checkout."
  (map (lambda (found)
         (map (lambda (index)
                (match:substring found (+ 1 index)))
              (iota (- (match:count found) 1))))
       (list-matches pattern
                     (call-with-input-file (string-append %root "/" file) get-string-all))))

(define %version
  (match (matches "\nversion = \"([^\"]*)\"" "Cargo.toml")
    (((version) _ ...) version)))

(define (crate name version checksum)
  "What Cargo needs of a crate: where it is, the directory that it has, its SHA-256 hash in base 16."
  (list (origin
          (method url-fetch)
          (uri (crate-uri name version))
          (file-name (string-append "rust-" name "-" version ".tar.gz"))
          (hash (content-hash (base16-string->bytevector checksum) sha256)))
        (string-append name "-" version)
        checksum))

;; All that Cargo.lock names, those for tests and other systems too: Cargo wants to see them all before it builds some.
(define (crates)
  (map (lambda (arguments)
         (apply crate arguments))
       (matches
        "name = \"([^\"]*)\"\nversion = \"([^\"]*)\"\nsource = \"[^\"]*\"\nchecksum = \"([^\"]*)\"" "Cargo.lock")))

(define-public guix-offload
  (package
    (name "guix-offload")
    (version %version)
    (source
     (local-file "../.." "guix-offload-checkout"
                 #:recursive? #t
                 #:select? (or (git-predicate %root)
                               (lambda (file stat) ;what is no Git checkout
                                 (not (string=? (basename file) "target"))))))
    (build-system gnu-build-system)
    (arguments
     (list
      ;; They need root, and real hosts.
      #:tests? #f
      #:modules '((guix build gnu-build-system)
                  (guix build utils)
                  (ice-9 match))
      #:make-flags
      #~(list (string-append "PREFIX=" #$output)
              (string-append "docdir=" #$output
                             "/share/doc/guix-offload-" #$%version)
              (string-append "CC=" #$(cc-for-target))
              "CARGO=cargo --offline"
              "GUILE_VERSIONS=3.0"
              "STATIC=no")
      #:phases
      #~(modify-phases %standard-phases
          (replace 'configure
            (lambda _
              (setenv "ZSTD_SYS_USE_PKG_CONFIG" "1")
              (setenv "CARGO_HOME" (string-append (getcwd) "/.cargo"))
              (mkdir-p ".cargo")
              (call-with-output-file ".cargo/config.toml"
                (lambda (port)
                  (display "[source.crates-io]\nreplace-with = 'vendor'\n" port)
                  (display "[source.vendor]\ndirectory = 'vendor'\n" port)))
              ;; Cargo compares these checksums with those of Cargo.lock.
              ;; The libraries in some crates are those of Windows.
              (for-each
               (match-lambda
                 ((archive name checksum)
                  (let ((crate (string-append "vendor/" name)))
                    (mkdir-p crate)
                    (invoke "tar" "-xf" archive "-C" crate
                            "--strip-components=1" "--exclude=*.a")
                    (call-with-output-file
                        (string-append crate "/.cargo-checksum.json")
                      (lambda (port)
                        (format port "{\"files\":{},\"package\":\"~a\"}"
                                checksum))))))
               '#+(crates))))
          (add-after 'install 'compile-for-guix
            (lambda _
              (invoke "guile" "--no-auto-compile"
                      (string-append #$output "/share/guix-offload/compile.scm")))))))
    (native-inputs
     (list guile-3.0-latest
           guix
           pkg-config
           rust
           (list rust "cargo")
           texinfo))
    ;; libssh2 is compiled in: Guix has 1.10, but to forward Unix-domain
    ;; sockets takes 1.11.
    (inputs
     (list libgcrypt openssl sqlite zlib
           (list zstd "lib")))
    (home-page "https://guix.gnu.org")
    (synopsis "Build offloading for GNU Guix, in place of its script")
    (description
     "When guix-daemon should build something, this package has another machine
do it: the daemon's build hook chooses a machine of
@file{/etc/guix/machines.scm}, sends it over SSH the store items that it lacks,
and brings the outputs back, verified.  It replaces @command{guix offload},
which takes many times as long, and reads the same configuration.

There are also a command, @command{guix-offload}, which tests the machines and
shows how they are doing, a C library, and a Guile module,
@code{(guix-offload)}.")
    (license license:gpl3+)))

guix-offload
