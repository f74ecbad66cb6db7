#!/usr/bin/env python3
"""Makes the manual out of the header: one HTML file that needs nothing else.

    python3 manual.py ../l2ladv.h bin/manual.html

It goes by the header's own marks: the contents' parts and chapters, a chapter's heading between two
rules, a section's "/* -- title ---- >>mark --", comments that begin a line (text) and all else (code).
Names of functions, types, constants and macros lead to where they are declared, and from there to where
they are defined. Needs Python 3, nothing else.
"""
import collections
import contextlib
import errno
import html
import os
import re
import sys
import tempfile

NAME = r"(?:l2l_|L2L_|L2LADV_|L2LADVDEF)\w*"
KEYWORDS = set("""auto bool break case char const continue default do double else enum extern false float for
goto if inline int long register restrict return short signed sizeof static struct switch true typedef union
unsigned void volatile while NULL""".split())
INLINE = re.compile(r"`(?P<quoted>[^`\n]+)`|\[A1:(?P<line>\d+)|\b(?P<name>%s)|&gt;&gt;(?P<mark>[a-z0-9-]*[a-z0-9])|\bchapter (?P<chapter>\d+(?:\.\d+)?)|"
                    r"(?P<lead>\(|\b(?:of|in|[Ss]ee) )(?P<section>2\.\d+)\b(?! ?[%%\d])" % NAME)
TOKEN = re.compile(r"/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'|^[ \t]*#[ \t]*\w+|\w+|\s+|.", re.S | re.M)

Item = collections.namedtuple("Item", "kind line lines")  # kind: comment, code
Chapter = collections.namedtuple("Chapter", "number mark title part")


# -- the header's pieces -------------------------------------------------------------------------------

def items(text):
    """Comments that begin a line and end one, and the code between them, with their line numbers."""
    lines, result, i = text.split("\n"), [], 0
    while i < len(lines):
        begin, kind = i, "code"
        if lines[i].startswith("/*"):
            while i + 1 < len(lines) and "*/" not in lines[i]:
                i += 1
            kind = "comment" if lines[i].rstrip().endswith("*/") else "code"
        i += 1
        if kind == "code":
            while i < len(lines) and not lines[i].startswith("/*"):
                i += 1
            if result and result[-1].kind == "code":
                result[-1].lines.extend(lines[begin:i])
                continue
        result.append(Item(kind, begin + 1, lines[begin:i]))
    return result


def contents(text):
    """The chapters by number, from the header's own table of contents."""
    part, chapters = "", {}
    table = text[text.index("WHERE IS WHAT"):]
    for line in table[:table.index("History and licence")].split("\n"):
        head = re.match(r"   (Part [IVX]+: .*)", line)
        row = re.match(r" {3,}(\d+)  (.*?) +\d+  >>([a-z0-9-]+)$", line)
        part = head.group(1) if head else part
        if row:
            chapters[int(row.group(1))] = Chapter(int(row.group(1)), row.group(3), row.group(2), part)
    return chapters


def definitions(text, first_body):
    """Where names come from: {name: line} of the declarations in the interface and of all definitions.
    Lines from `first_body` on are the implementation's."""
    declared, defined = {}, {}
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    code = re.sub(r"/\*.*?\*/", blank, re.sub(r"^#if 0\b.*?^#endif", blank, text, flags=re.S | re.M), flags=re.S)
    def note(place, at, name):
        place.setdefault(name, code.count("\n", 0, at) + 1)
    for m in re.finditer(r"^(?:L2LADVDEF|static|struct|typedef)\b[^;{}#]*?\b(l2l_\w+)\s*\(", code, re.M):
        at, depth = m.end(), 1
        while at < len(code) and (depth or code[at] not in ";{="):
            depth += {"(": 1, ")": -1}.get(code[at], 0)
            at += 1
        if not m.group().startswith("typedef"):
            body = code[at:at + 1] == "{"
            note(defined if body else declared, m.start(1), m.group(1))
    for m in re.finditer(r"^typedef\b[^;{]*?(?:\(\*(l2l_\w+)\)|\b(l2l_\w+)\s*;)", code, re.M):
        note(defined, m.start(1) if m.group(1) else m.start(2), m.group(1) or m.group(2))
    for m in re.finditer(r"^(?:typedef )?(struct|enum|union)\b\s*(l2l_\w+)?\s*\{(.*?)^\}\s*(l2l_\w+)?|"
                         r"^(?:typedef )?enum\b[^{\n]*\{([^\n]*)\}", code, re.M | re.S):
        for k in (2, 4):
            if m.group(k):
                note(defined, m.start(k), m.group(k))
        body = 5 if m.group(5) else 3
        if m.group(1) == "enum" or m.group(5):
            for n in re.finditer(r"(?:^|,)\s*(L2L_\w+)", m.group(body)):
                note(defined, m.start(body) + n.start(1), n.group(1))
    for m in re.finditer(r"^[ \t]*#[ \t]*define[ \t]+(%s)" % NAME, code, re.M):
        note(defined, m.start(1), m.group(1))
    for m in re.finditer(r"^static\b[^;{}()#]*?\b(l2l_\w+)\s*(?:\[[^\n]*?\])*\s*=", code, re.M):
        note(defined, m.start(1), m.group(1))
    public = {n: line for n, line in declared.items() if line < first_body}
    return public, {**declared, **defined}


# -- text ----------------------------------------------------------------------------------------------

class Page:
    def __init__(self, text):
        self.chapters = contents(text)
        heads = {int(m.group(1)): text.count("\n", 0, m.start()) + 1
                 for m in re.finditer(r"^/\*  ?(\d+)  ?[A-Z]", text, re.M)}
        self.first_body = heads[3]
        self.public, self.places = definitions(text, self.first_body)
        self.places.pop("L2LADVDEF", None)  # it is everywhere
        self.marks = set(re.findall(r">>([a-z0-9-]*[a-z0-9])", text))
        self.sections = set(re.findall(r"^/\* -- (\d+\.\d+) ", text, re.M))
        self.toc, self.out, self.used = [], [], set()

    def write(self, *parts):
        self.out.extend(parts)

    def anchor(self, title):
        """An id that no other has."""
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        name, n = base, 1
        while name in self.used or name in self.marks:
            n += 1
            name = "%s-%d" % (base, n)
        self.used.add(name)
        return name

    def inline(self, text):
        """Words of a comment: names, marks, chapters and sections are links."""
        def link(m):
            word, name, mark, number = m.group(), m.group("name"), m.group("mark"), m.group("chapter")
            if m.group("quoted"):
                return "<code>%s</code>" % INLINE.sub(link, m.group("quoted"))
            if m.group("line"):
                return '[<a href="#A1.%s">A1:%s</a>' % (m.group("line"), m.group("line"))
            section = m.group("section") or (number if number and "." in number else None)
            if name:
                place = name if name in self.places else "macros" if name.startswith("L2LADV") else None
                return '<a class="c" href="#%s">%s</a>' % (place, name) if place else "<code>%s</code>" % name
            if section:
                lead = m.group("lead") or ""
                target = "s" + section if section in self.sections else None
                word = word[len(lead):]
            else:
                lead = ""
                chapter = self.chapters.get(int(number)) if number else None
                target = chapter.mark if chapter else mark if mark in self.marks else None
            return lead + ('<a href="#%s">%s</a>' % (target, word.replace("&gt;", "")) if target else word)
        return INLINE.sub(link, html.escape(text, quote=False))

    def prose(self, lines, heads=False):
        """A comment's lines as paragraphs, lists and, where they are indented, as they stand."""
        blocks, kind = [], None
        for line in lines:
            line = line.rstrip()
            indent = len(line) - len(line.lstrip())
            if not line:
                if blocks and kind == "pre":
                    blocks[-1][1].append("")
                else:
                    kind = None
                continue
            if indent <= 3 and line.lstrip().startswith("- "):
                blocks.append(("li", [line.lstrip()[2:]]))
                kind = "li"
            elif kind == "li" and indent == 5:
                blocks[-1][1].append(line)
            elif indent > 3:
                if kind != "pre":
                    blocks.append(("pre", []))
                blocks[-1][1].append(line)
                kind = "pre"
            elif re.search(r"\S {3,}\S|^ {3}[\d.]+ +\(", line):  # a row of a table
                if kind != "pre":
                    blocks.append(("pre", []))
                blocks[-1][1].append(line)
                kind = "pre"
            else:
                if kind != "p":
                    blocks.append(("p", []))
                blocks[-1][1].append(line)
                kind = "p"
        open_list = False
        for kind, lines in blocks:
            if open_list != (kind == "li"):
                self.write("</ul>\n" if open_list else "<ul>\n")
                open_list = not open_list
            if kind == "pre":
                while lines and not lines[-1]:
                    lines.pop()
                least = min(len(l) - len(l.lstrip()) for l in lines if l)
                block = self.inline("\n".join(l[least:] for l in lines))
                if re.match(r"\s*1  Input:", block):  # the lines of Algorithm 1, which [A1:n] leads to
                    block = re.sub(r"^( *)(\d+)(?=  )", r'\1<span id="A1.\2">\2</span>', block, flags=re.M)
                self.write("<pre class=\"f\">", block, "</pre>\n")
                continue
            text = " ".join(l.strip() for l in lines)
            head = re.match(r"((?:[A-Z][A-Z0-9-]+ ?)+)(\. |: |$)", text) if kind == "p" else None
            title = head.group(1).strip() if head else ""
            if head and len(title) > 4 and heads:
                name = self.anchor(title)
                self.toc.append((2, name, title.capitalize(), ""))
                self.write('<h3 id="%s">%s</h3>\n' % (name, html.escape(title.capitalize())))
                text = text[head.end():]
                text = text[:1].upper() + text[1:]
                if not text:
                    continue
            elif head and len(title) > 4:
                self.write("<p><strong>%s</strong>%s%s</p>\n" % (
                    html.escape(title.capitalize()), html.escape(head.group(2)), self.inline(text[head.end():])))
                continue
            self.write("<%s>" % kind, self.inline(text), "</%s>\n" % kind)
        if open_list:
            self.write("</ul>\n")

    # -- code ------------------------------------------------------------------------------------------

    def code(self, line, lines):
        """A block of code, its names linked. `line` is where it begins in the header."""
        while lines and not lines[0].strip():
            lines, line = lines[1:], line + 1
        while lines and not lines[-1].strip():
            lines = lines[:-1]
        if not lines:
            return
        result, at = [], line
        lines = [re.sub(r" {2,}\*/$", " */", l) for l in lines]  # the header's right margin
        for m in TOKEN.finditer("\n".join(lines)):
            word = m.group()
            if re.fullmatch(NAME, word) and word in self.places:
                result.append(self.name(word, at))
            elif word in KEYWORDS or word == "L2LADVDEF" or word.lstrip().startswith("#") and len(word.lstrip()) > 1:
                result.append("<b>%s</b>" % word)
            elif word.startswith("/*"):
                result.append("<i>%s</i>" % self.inline(word))
            elif word[0] in "\"'" and len(word) > 1:
                result.append("<samp>%s</samp>" % html.escape(word, quote=False))
            else:
                result.append(html.escape(word, quote=False))
            at += word.count("\n")
        self.write('<pre class="s" data-l="%d">' % line, "".join(result), "</pre>\n")

    def name(self, word, line):
        """A name in code: a link; where it comes from, a place to be led to."""
        if self.public.get(word) == line:
            here, there = word, "code." + word if self.places[word] != line else ""
        elif self.places[word] == line:
            here, there = ("code." + word, word) if word in self.public else (word, "")
        else:
            return '<a href="#%s">%s</a>' % (word, word)
        if here in self.used:  # a second time on one line
            return '<a href="#%s">%s</a>' % (word, word)
        self.used.add(here)
        return '<a class="d" id="%s"%s>%s</a>' % (here, ' href="#%s"' % there if there else "", word)

    # -- all of it -------------------------------------------------------------------------------------

    def section(self, item, chapter):
        """A comment "-- title ---- >>mark --" and what follows in it."""
        lines = [item.lines[0][2:]] + item.lines[1:]
        lines[-1] = re.sub(r"\s*\*/\s*$", "", lines[-1])
        first = lines[0].strip()
        mark = re.search(r">>([a-z0-9-]*[a-z0-9])", first)
        ruled = re.match(r"-- (.*?) -{3,}", first) or re.match(r"-- (.*?)(?: -+)?$", first) if first.endswith("--") else None
        if ruled:
            title, lines = ruled.group(1), lines[1:]
        else:  # the title is the beginning of a sentence
            text = " ".join(l.strip() for l in lines)[3:]
            title, lines = re.split(r"[:.(]", text)[0].strip(), ["   " + text]
        if not re.match(NAME + r"|\.", title):
            title = re.sub(r"^[\d. ]*[a-z]", lambda m: m.group().upper(), title)
        number = re.match(r"(\d+\.\d+) ", title)
        name = "s" + number.group(1) if number else self.anchor("%s %s" % (chapter.mark, title))
        self.toc.append((2, name, title, ""))
        extra = '<span id="%s"></span>' % mark.group(1) if mark else ""
        self.write('<h3 id="%s">%s%s</h3>\n' % (name, extra, self.inline(title)))
        self.prose(lines)

    def chapter(self, chapter):
        self.toc.append((1, chapter.mark, chapter.title, chapter))
        self.write('<h2 id="%s"><span class="n">%d</span> %s</h2>\n' % (
            chapter.mark, chapter.number, html.escape(chapter.title)))

    def body(self, all_items):
        """Text and code in turn; in the implementation side by side."""
        chapter, pending, part = None, None, None
        def flush(code=None):
            nonlocal pending
            if not pending and not code:
                return
            # Tables and formulas that the narrow column would cut stand above.
            beside = chapter and chapter.number > 2 and not (pending and any(
                len(l.rstrip()) > 40 and l.startswith("    ") for l in pending.lines))
            self.write('<div class="u">\n' if beside else '<div class="v">\n')
            self.write('<div class="t">')
            if pending:
                lines = ["   " + pending.lines[0][2:].strip()] + pending.lines[1:]
                lines[-1] = re.sub(r"\s*\*/\s*$", "", lines[-1])
                self.prose(lines)
            self.write("</div>\n")
            if code:
                self.code(code.line, code.lines)
            self.write("</div>\n")
            pending = None
        skip = 0
        for k, item in enumerate(all_items):
            if skip:
                skip -= 1
                continue
            text = "\n".join(item.lines)
            if item.kind == "comment" and re.match(r"/\* =+( \*/)?$", item.lines[0]):
                head = re.match(r"/\*  ?(\d+)  ?[A-Z]", all_items[k + 1].lines[0]) if k + 1 < len(all_items) else None
                if head:
                    flush()
                    chapter = self.chapters[int(head.group(1))]
                    if chapter.part != part:
                        part = chapter.part
                        self.toc.append((0, "", part, ""))
                        self.write('</section>\n<section>\n<p class="part">%s</p>\n' % html.escape(part))
                    self.chapter(chapter)
                    skip = 1
                    if k + 2 < len(all_items) and re.match(r"/\* =+", all_items[k + 2].lines[0]):
                        rest = all_items[k + 2].lines[1:]
                        if rest:
                            rest[-1] = re.sub(r"\s*\*/\s*$", "", rest[-1])
                            self.prose(rest)
                        skip = 2
                continue
            if item.kind == "comment" and item.lines[0].startswith("/* -- "):
                flush()
                self.section(item, chapter)
            elif item.kind == "comment" and re.match(r"/\* HISTORY\b", text):  # the end: history, licence
                flush()
                chapter = None
                self.toc.append((0, "", "At the end", ""))
                self.write('</section>\n<section>\n')
                lines = ["   " + item.lines[0][2:].strip()] + item.lines[1:]
                lines[-1] = re.sub(r"\s*\*/\s*$", "", lines[-1])
                self.prose(lines, heads=True)
            elif item.kind == "comment":
                flush()
                pending = item
            else:
                lines = re.sub(r"^#ifdef __clang__\n#pragma mark[^\n]*\n#endif$", "\n\n", text, flags=re.M).split("\n")
                if any(l.strip() for l in lines):
                    flush(Item("code", item.line, lines))
        flush()

    def front(self, comment, quick, rest):
        """What stands before chapter 1: two comments and a program between them."""
        self.toc.append((1, "top", "What it is", ""))
        lines = ["   " + comment[0][2:].strip()] + comment[1:]
        lines[-1] = re.sub(r"\s*\*/\s*$", "", lines[-1])
        self.prose(lines[1:], heads=True)
        if quick:
            self.write('<div class="v">')
            self.code(quick.line + 1, [l for l in quick.lines if not re.match(r"#(if 0|endif)", l)])
            self.write("</div>\n")
        text = "\n".join(rest)
        begin, end = text.index("   WHERE IS WHAT"), text.index("   NOTATION")
        rest = (text[:begin] + text[end:]).split("\n")[0 if begin > 3 else 1:]
        rest[0] = rest[0].replace("/*", "  ")
        rest[-1] = re.sub(r"\s*\*/\s*$", "", rest[-1])
        self.prose(rest, heads=True)

    def index(self):
        kinds = collections.OrderedDict((("Functions", []), ("Types", []), ("Constants and macros", [])))
        for name, line in self.places.items():
            if "__" in name or (name not in self.public and line >= self.first_body) or name == "L2LADV_H":
                continue
            kind = "Constants and macros" if name.startswith("L2L") else "Functions" if name in self.public else "Types"
            kinds[kind].append(name)
        self.toc.append((1, "index", "Index", ""))
        self.write('<h2 id="index">Index of the interface</h2>\n')
        for kind, names in kinds.items():
            self.write("<h3>%s</h3>\n<ul class=\"index\">\n" % kind)
            for name in sorted(names):
                self.write('<li><a href="#%s">%s</a></li>\n' % (name, name))
            self.write("</ul>\n")

    def navigation(self):
        out, level, opened = ['<nav id="contents" aria-label="Contents">\n<p class="home"><a href="#top">l2ladv.h</a></p>\n'], 0, False
        for k, (depth, name, title, chapter) in enumerate(self.toc):
            if depth < 2 and opened:
                out.append("</ul></details>\n")
                opened = False
            label = html.escape(title)
            if depth == 0:
                out.append('<p class="part">%s</p>\n' % label)
            elif depth == 1:
                number = '<span class="n">%d</span> ' % chapter.number if chapter else ""
                if k + 1 < len(self.toc) and self.toc[k + 1][0] == 2:
                    out.append('<details%s><summary><a href="#%s">%s%s</a></summary><ul>\n' % (
                        " open" if chapter and chapter.number == 2 else "", name, number, label))
                    opened = True
                else:
                    out.append('<p class="leaf"><a href="#%s">%s%s</a></p>\n' % (name, number, label))
            elif opened:
                out.append('<li><a href="#%s">%s</a></li>\n' % (name, label))
            else:
                out.append('<p class="leaf"><a href="#%s">%s</a></p>\n' % (name, label))
        return "".join(out) + ("</ul></details>\n" if opened else "") + "</nav>\n"


STYLE = """
:root{color-scheme:light dark;--bg:#fcfbf8;--fg:#22262b;--dim:#6b7178;--line:#e4e0d8;--block:#f4f2ec;--link:#0b5c8a;
--key:#7a3e9d;--note:#5f7a52;--text:#9a4a1f;--mark:#fff0b8;--accent:#b5482a}
@media (prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#d9d7d2;--dim:#8d949c;--line:#2b3037;--block:#1c2026;--link:#7cc0ea;
--key:#c9a2e8;--note:#8fae80;--text:#e0a27c;--mark:#4a4320;--accent:#e88a6a}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem;-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--fg);font:17px/1.58 Charter,"Bitstream Charter","Iowan Old Style","Palatino Linotype",
Georgia,"DejaVu Serif",serif;overflow-wrap:break-word}
a{color:var(--link);text-decoration:none}a:hover,a:focus-visible{text-decoration:underline}
pre,code,samp,.c,.index{font-family:ui-monospace,"SF Mono",SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
code,.c{font-size:.82em}
header,main{padding:0 1.1rem}
header{padding-top:2.2rem;margin-bottom:1.4rem}
h1{font-size:2.3rem;line-height:1.15;margin:0;letter-spacing:-.02em}
h2{font-size:1.75rem;line-height:1.2;margin:3.4rem 0 1.1rem;letter-spacing:-.012em}
h3{font-size:1.22rem;line-height:1.3;margin:2.6rem 0 .8rem}
h2 .n,nav .n{color:var(--accent);font-variant-numeric:tabular-nums}
h2 .n{margin-right:.35rem}
.sub{color:var(--dim);margin:.5rem 0 0;font-size:1.05rem}
.part{font:600 .76rem/1.4 system-ui,sans-serif;letter-spacing:.09em;text-transform:uppercase;color:var(--accent)}
main .part{margin:5rem 0 -2.6rem;padding-top:1.4rem;border-top:1px solid var(--line)}
p,ul{margin:0 0 .9rem}ul{padding-left:1.2rem}li{margin:.3rem 0}
main>section>p,main>section>ul,.v .t{max-width:44rem}
main>section>pre.f{max-width:100%}
pre{margin:0 0 1.1rem;overflow-x:auto;font-size:.775rem;line-height:1.5;border-radius:6px;tab-size:4}
pre.f{padding:.75rem 1rem;border-left:3px solid var(--accent);background:var(--block);border-radius:0 6px 6px 0;width:fit-content;max-width:100%}
pre.s{position:relative;padding:.75rem 1rem;background:var(--block)}
pre.s::after{content:"line " attr(data-l);position:absolute;top:.35rem;right:.6rem;font:.68rem/1 system-ui,sans-serif;color:var(--dim);opacity:0}
pre.s:hover::after{opacity:1}
pre.s b{color:var(--key);font-weight:500}pre.s i{color:var(--note);font-style:normal}pre.s samp{color:var(--text);font-size:inherit}
pre.s i a{color:inherit;border-bottom:1px dotted}
pre .c,pre code{font-size:inherit}
pre.f span:target{outline:3px solid var(--mark)}
pre.s a.d{font-weight:700;color:var(--fg);scroll-margin-top:3.5rem}
:target{background:var(--mark);border-radius:3px}
h2:target,h3:target{background:none}
.v{margin-bottom:1.4rem}.v .t p:last-child{margin-bottom:.5rem}
.t pre.f{font-size:.72rem}
nav{font:.86rem/1.4 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;padding:1rem 1.1rem 1.4rem}
nav a{color:var(--fg)}nav .home{display:none}
nav .part{margin:1.1rem 0 .25rem;font-size:.68rem}
nav .leaf{margin:0;padding:.24rem 0 .24rem 1.05rem}
nav summary{padding:.24rem 0;cursor:pointer;list-style-position:outside;margin-left:1.05rem}
nav summary::marker{color:var(--dim);font-size:.8em}
nav ul{list-style:none;margin:0 0 .3rem;padding:0 0 0 1.75rem;border:0}
nav li{margin:0;padding:.17rem 0}nav li a{color:var(--dim)}
nav a.here{color:var(--accent)}
.index{columns:15rem;list-style:none;padding:0;font-size:.76rem;max-width:none!important}.index li{break-inside:avoid;margin:0;padding:.12rem 0}
.up{position:fixed;right:.9rem;bottom:.9rem;z-index:2;font:.82rem/1 system-ui,sans-serif;background:var(--block);border:1px solid var(--line);
border-radius:1rem;padding:.6rem .9rem}
footer{padding:3rem 1.1rem 4rem;color:var(--dim);font-size:.9rem}
@media (max-width:40rem){pre{font-size:.7rem}}
@media (min-width:64rem){
.up{display:none}
body{display:grid;grid-template-columns:17rem minmax(0,1fr);grid-template-rows:auto 1fr auto}
nav{grid-column:1;grid-row:1/4;position:sticky;top:0;height:100vh;overflow-y:auto;overscroll-behavior:contain;border-right:1px solid var(--line);
padding:1.4rem .9rem 2rem 1rem;scrollbar-width:thin}
nav .home{display:block;margin:0 0 .6rem 1.05rem;font:700 1.05rem/1.3 Charter,"Bitstream Charter",Georgia,serif}
header,main,footer{grid-column:2;padding-left:2.6rem;padding-right:2.6rem}
header{padding-top:3rem}}
@media (min-width:78rem){
body{grid-template-columns:16rem minmax(0,1fr)}
header,main,footer{padding-left:2.2rem;padding-right:1.6rem}
.u{display:grid;grid-template-columns:minmax(0,15.5rem) minmax(0,1fr);column-gap:1.3rem;align-items:start}
.u .t{position:sticky;top:1rem;font-size:.92rem;line-height:1.5;max-height:calc(100vh - 2rem);overflow-y:auto;scrollbar-width:thin}
.u pre.s{font-size:.7rem;padding:.65rem .8rem}}
@media (min-width:92rem){.u{grid-template-columns:minmax(0,18rem) minmax(0,1fr)}.u pre.s{font-size:.775rem}}
@media (min-width:110rem){.u{grid-template-columns:minmax(0,26rem) minmax(0,56rem)}.u .t{font-size:1rem}.u pre.s{font-size:.8rem}}
@media print{nav,.up{display:none}pre{white-space:pre-wrap}body{display:block;font-size:10pt}}
"""

# Marks in the contents what is being read; the page does without.
SCRIPT = """
(function(){var links={},last;document.querySelectorAll('nav a').forEach(function(a){links[a.getAttribute('href').slice(1)]=a});
var heads=[].filter.call(document.querySelectorAll('h2[id],h3[id]'),function(h){return links[h.id]});
function look(){var low=0,high=heads.length,m;while(low<high){m=(low+high)>>1;
if(heads[m].getBoundingClientRect().top<120)low=m+1;else high=m}
var a=links[low?heads[low-1].id:'top'];if(a===last)return;if(last)last.classList.remove('here');last=a;if(!a)return;
a.classList.add('here');var n=document.querySelector('nav');if(n.scrollHeight>n.clientHeight){
var d=a.closest('details');if(d)d.open=true;
var r=a.getBoundingClientRect();if(r.top<60||r.bottom>innerHeight-60)n.scrollTop+=r.top-innerHeight/3}}
var due;addEventListener('scroll',function(){if(!due)due=setTimeout(function(){due=0;look()},80)},{passive:true});look()})();
"""


def page(text):
    p = Page(text)
    all_items = items(text)
    first = next(k for k, i in enumerate(all_items) if re.match(r"/\* =+ \*/$", i.lines[0]))
    comments = [i for i in all_items[:first] if i.kind == "comment"]
    quick = next((i for i in all_items[:first] if i.kind == "code" and any(l.startswith("#if 0") for l in i.lines)), None)
    title, version, about = re.match(r"/\* (\S+) - v(\S+) - (.*)", comments[0].lines[0]).groups()
    p.front(comments[0].lines, quick, [l for c in comments[1:] for l in c.lines])
    p.body(all_items[first:])
    p.index()
    functions = len(p.public)
    return functions, """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s: %s</title>
<style>%s</style>
</head>
<body>
<header id="top">
<h1>%s</h1>
<p class="sub">Version %s. %s.</p>
</header>
%s<main>
<section>
%s</section>
</main>
<footer>Made from %s by examples/manual.py.</footer>
<a class="up" href="#contents">Contents</a>
<script>%s</script>
</body>
</html>
""" % (title, html.escape(about), STYLE, title, version, html.escape(about[:1].upper() + about[1:]), p.navigation(),
       "".join(p.out), title, SCRIPT)


def place(path, text):
    """Writes a file whole or not at all, behind a link; what is no regular file in place."""
    there = os.path.exists(path)
    if there and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return
    path = os.path.realpath(path)
    if there and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    descriptor, beside = tempfile.mkstemp(".tmp", os.path.basename(path)[:50] + ".", os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as f:
            f.write(text)
        mask = os.umask(0)
        os.umask(mask)
        if there and hasattr(os, "chown"):
            old, new = os.stat(path), os.stat(beside)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                with contextlib.suppress(PermissionError):  # only root can give a file away
                    os.chown(beside, old.st_uid, old.st_gid)
        os.chmod(beside, os.stat(path).st_mode & 0o777 if there else 0o666 & ~mask)
        os.replace(beside, path)
    except BaseException:  # also ctrl-C
        os.unlink(beside)
        raise


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python3 manual.py ../l2ladv.h bin/manual.html")
    source, target = sys.argv[1:]
    try:
        if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
            sys.exit("manual.py: %s: is the file that is read" % target)
        with open(source, encoding="utf-8") as f:
            text = f.read()
    except OSError as e:
        sys.exit("manual.py: %s: %s" % (source, e.strerror))
    except UnicodeDecodeError as e:
        sys.exit("manual.py: %s: not l2ladv.h: not UTF-8 at byte %d" % (source, e.start))
    for mark in (r"/\* \S+ - v\S+ - .*", r"(?s:.*)WHERE IS WHAT(?s:.*)History and licence", r"(?s:.*?)^/\* =+ \*/$"):
        if not re.match(mark, text, re.M):
            sys.exit("manual.py: %s: not l2ladv.h: expected a first line '/* NAME - vVERSION - ABOUT', a table of "
                     "contents from 'WHERE IS WHAT' to 'History and licence', and chapters" % source)
    functions, result = page(text)
    try:
        place(target, result)
    except OSError as e:
        sys.exit("manual.py: %s: %s" % (target, e.strerror))
    print("%s: %d chapters, %d functions of the interface, %d bytes" % (
        sys.argv[2], len(contents(text)), functions, len(result.encode())))


if __name__ == "__main__":
    main()
