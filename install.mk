# SPDX-License-Identifier: GPL-3.0-or-later
#
# make install, install-strip and uninstall; the Makefile includes this.
#
#   PREFIX or prefix, exec_prefix, bindir, ...  where to (the GNU coding standards); all below DESTDIR
#   GUILE_VERSIONS="3.0 2.2"   for which versions of Guile; empty for none
#   STATIC=no                  without the static library
#   RUNPATH=no                 the programs look for the library where the system does, not in $(libdir)
#
# Give `make` the same variables as `make install`: the programs know where the library is.

PREFIX ?= /usr/local
GUILE_VERSIONS ?= 3.0 2.2
STATIC ?= yes
RUNPATH ?= yes

prefix       = $(PREFIX)
exec_prefix  = $(prefix)
bindir       = $(exec_prefix)/bin
libexecdir   = $(exec_prefix)/libexec
libdir       = $(exec_prefix)/lib
pkgconfigdir = $(libdir)/pkgconfig
includedir   = $(prefix)/include
datarootdir  = $(prefix)/share
datadir      = $(datarootdir)
mandir       = $(datarootdir)/man
# A guix in /usr may have a page about `guix offload` by the same name, as Debian's has.
man1ext      = $(if $(filter /usr,$(prefix)),.1offload,.1)
infodir      = $(datarootdir)/info
docdir       = $(datarootdir)/doc/guix-offload
bashdir      = $(datadir)/bash-completion/completions
zshdir       = $(datadir)/zsh/site-functions
fishdir      = $(datadir)/fish/vendor_completions.d
# Of all versions of Guile: Guile has a directory of each version's name below these.
guilesitedir   = $(datadir)/guile/site
guileccachedir = $(libdir)/guile

# Modules that replace Guix's own, and what they need, are in a directory in which Guile looks only when told to. Nor is
# another Guix there, which might be taken for the one that runs.
privatedir       = $(datadir)/guix-offload
privateccachedir = $(libdir)/guix-offload/guile
extensionsdir    = $(datadir)/guix/extensions

# Each module after those that it uses.
topics  := conditions handles arguments foreign cancellation machines engine request verbs jobs hook reports farm
binding := $(topics:%=guix-offload/%.scm) guix-offload.scm
parts   := records endings machine-file help arguments survey setup journal local
command := $(parts:%=guix/scripts/offload/%.scm) guix/scripts/offload.scm
scripts := compile.scm replace.scm run.scm

# A file names another by a path relative to its own directory, so the whole can be moved.
relative = $(shell realpath -m --relative-to=$(2) $(1))
fill = sed \
  -e 's|@PREFIX@|$(prefix)|g' -e 's|@EXEC_PREFIX@|$(subst $(prefix),$${prefix},$(exec_prefix))|g' \
  -e 's|@PC_LIBDIR@|$(subst $(exec_prefix)/,$${exec_prefix}/,$(libdir))|g' \
  -e 's|@PC_INCLUDEDIR@|$(subst $(prefix)/,$${prefix}/,$(includedir))|g' \
  -e 's|@VERSION@|$(version)|g' -e 's|@LIBDIR@|$(libdir)|g' -e 's|@LIBEXECDIR@|$(libexecdir)|g' \
  -e 's|@TO_LIBDIR@|$(call relative,$(libdir),$(1))|g' \
  -e 's|@TO_PRIVATE@|$(call relative,$(privatedir),$(1))|g' \
  -e 's|@TO_PRIVATE_CCACHE@|$(call relative,$(privateccachedir),$(1))|g' \
  -e 's|@BINDING@|$(binding:.scm=)|g' -e 's|@COMMAND@|$(command:.scm=)|g' \
  -e 's|@TO_SITE@|$(call relative,$(guilesitedir),$(1))|g' \
  -e 's|@TO_CCACHE@|$(call relative,$(guileccachedir),$(1))|g'

# In one step: a daemon may start a hook at any time.
replace = install -m $(1) $(2) $(DESTDIR)$(3).new && mv -f $(DESTDIR)$(3).new $(DESTDIR)$(3)
# With the places filled in. A file that is the same stays, so that what was compiled of it remains good.
fill_in = install -d $(dir $(DESTDIR)$(3)) && $(call fill,$(dir $(3))) $(2) >$(DESTDIR)$(3).new && \
  if cmp -s $(DESTDIR)$(3).new $(DESTDIR)$(3); then rm $(DESTDIR)$(3).new; \
  else mv -f $(DESTDIR)$(3).new $(DESTDIR)$(3); fi && chmod $(1) $(DESTDIR)$(3)

.PHONY: install install-strip uninstall install-library install-program install-guile install-documents
install: install-library install-program install-guile install-documents

install-library: $(built) $(if $(filter yes,$(STATIC)),$(release)/static/libguix_offload.a)
	install -d $(DESTDIR)$(libdir) $(DESTDIR)$(includedir)
	$(call replace,755,$(release)/libguix_offload.so,$(libdir)/libguix_offload.so.$(version))
	ln -sf libguix_offload.so.$(version) $(DESTDIR)$(libdir)/$(soname)
	ln -sf $(soname) $(DESTDIR)$(libdir)/libguix_offload.so
	$(if $(filter yes,$(STATIC)),install -m 644 $(release)/static/libguix_offload.a $(DESTDIR)$(libdir)/)
	install -m 644 include/guix-offload.h bindings/cxx/guix-offload.hh $(DESTDIR)$(includedir)/
	$(call fill_in,644,bindings/c/guix-offload.pc.in,$(pkgconfigdir)/guix-offload.pc)

install-program: $(release)/guix-offload
	install -d $(DESTDIR)$(libexecdir) $(DESTDIR)$(bindir)
	$(call replace,755,$(release)/guix-offload,$(libexecdir)/guix-offload)
	ln -sf $(call relative,$(libexecdir),$(bindir))/guix-offload $(DESTDIR)$(bindir)/guix-offload

# Compiled in place: what Guile compiles must be younger than its source.
install-guile: install-library
	set -e; $(foreach version,$(GUILE_VERSIONS),$(foreach file,$(binding), \
	  $(call fill_in,644,bindings/guile/$(file),$(guilesitedir)/$(version)/$(file));))
	$(if $(strip $(GUILE_VERSIONS)),$(install_replacement))

define install_replacement
set -e; $(foreach file,$(binding) $(command), \
  $(call fill_in,644,bindings/guile/$(file),$(privatedir)/guile/$(file));)
set -e; $(foreach file,$(scripts),$(call fill_in,644,bindings/guile/$(file),$(privatedir)/$(file));)
$(call fill_in,644,bindings/guile/extension.scm,$(extensionsdir)/offload.scm)
$(call fill_in,755,bindings/guile/guix-offload-guile,$(libexecdir)/guix-offload-guile)
umask 022; for version in $(GUILE_VERSIONS); do ! command -v guile-$$version >/dev/null || \
  guile-$$version --no-auto-compile $(DESTDIR)$(privatedir)/compile.scm >/dev/null || exit 1; done
endef

manuals   := $(wildcard docs/man/*.[1-8])
manual    = $(mandir)/man$(subst .,,$(suffix $(1)))/$(patsubst %.1,%$(man1ext),$(notdir $(1)))
# A package has its part of the list of all manuals made by whoever installs it.
list_info := command -v install-info >/dev/null && [ -z "$(DESTDIR)" ] && install-info
install-documents: $(info_manual)
	install -d $(DESTDIR)$(docdir)/docs $(DESTDIR)$(bashdir) $(DESTDIR)$(zshdir) $(DESTDIR)$(fishdir)
	install -m 644 LICENSE README.md CHANGELOG.md $(DESTDIR)$(docdir)/
	install -m 644 docs/*.md $(DESTDIR)$(docdir)/docs/
	set -e; $(foreach file,$(manuals),$(call fill_in,644,$(file),$(call manual,$(file)));)
	$(if $(info_manual),install -d $(DESTDIR)$(infodir))
	$(if $(info_manual),install -m 644 $(info_manual) $(DESTDIR)$(infodir)/)
	$(if $(info_manual),$(list_info) --info-dir=$(infodir) $(infodir)/guix-offload.info || true)
	install -m 644 bindings/c/completion/guix-offload.bash $(DESTDIR)$(bashdir)/guix-offload
	install -m 644 bindings/c/completion/guix-offload.zsh $(DESTDIR)$(zshdir)/_guix-offload
	install -m 644 bindings/c/completion/guix-offload.fish $(DESTDIR)$(fishdir)/

install-strip: install
	strip --strip-unneeded $(DESTDIR)$(libdir)/libguix_offload.so.$(version) $(DESTDIR)$(libexecdir)/guix-offload
	$(if $(filter yes,$(STATIC)),strip --strip-debug $(DESTDIR)$(libdir)/libguix_offload.a)

# File by file: a directory may hold what others have put there, unless it is for one version of Guix.
gone := compiled-by $(binding:.scm=.go)
uninstall:
	$(list_info) --delete --info-dir=$(infodir) $(infodir)/guix-offload.info || true
	rm -f $(addprefix $(DESTDIR),$(libdir)/libguix_offload.so.$(version) $(libdir)/$(soname) \
	  $(libdir)/libguix_offload.so $(libdir)/libguix_offload.a $(includedir)/guix-offload.h \
	  $(includedir)/guix-offload.hh $(pkgconfigdir)/guix-offload.pc $(libexecdir)/guix-offload \
	  $(libexecdir)/guix-offload-guile $(bindir)/guix-offload $(extensionsdir)/offload.scm $(bashdir)/guix-offload \
	  $(zshdir)/_guix-offload $(fishdir)/guix-offload.fish \
	  $(infodir)/guix-offload.info $(foreach file,$(manuals),$(call manual,$(file))) \
	  $(addprefix $(docdir)/,LICENSE README.md CHANGELOG.md $(wildcard docs/*.md)) \
	  $(addprefix $(privatedir)/,$(scripts) $(addprefix guile/,$(binding) $(command))))
	for version in $(GUILE_VERSIONS); do \
	  rm -f $(addprefix $(DESTDIR)$(guilesitedir)/$$version/,$(binding)); \
	  rm -rf $(DESTDIR)$(privateccachedir)/$$version/for-guix-*; \
	  for directory in $(DESTDIR)$(privateccachedir)/$$version \
	    $(DESTDIR)$(guileccachedir)/$$version/site-ccache; do \
	    rm -f $(addprefix $$directory/,$(gone)); \
	    ! [ -d $$directory/guix-offload ] || rmdir --ignore-fail-on-non-empty $$directory/guix-offload; done; \
	  ! [ -d $(DESTDIR)$(guilesitedir)/$$version/guix-offload ] || \
	    rmdir --ignore-fail-on-non-empty $(DESTDIR)$(guilesitedir)/$$version/guix-offload; done
	for directory in $(docdir)/docs $(docdir) $(privatedir)/guile/guix/scripts/offload \
	  $(privatedir)/guile/guix/scripts $(privatedir)/guile/guix \
	  $(privatedir)/guile/guix-offload $(privatedir)/guile $(privatedir) \
	  $(addprefix $(privateccachedir)/,$(GUILE_VERSIONS)) $(privateccachedir); do \
	  ! [ -d $(DESTDIR)$$directory ] || rmdir --ignore-fail-on-non-empty $(DESTDIR)$$directory; done
