#!/bin/sh
# examples/manual.py: the page that is made of the header is whole, well formed and needs nothing else.
#   usage: tests/test_manual.sh      PYTHON=python   KEEP=1 keeps the working directory
# Needs python3; with chromium the page is laid out, too. The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"
header=$(dirname "$tests")/l2ladv.h
python=${PYTHON:-python3}
"$python" -c '' >/dev/null 2>&1 || { echo "skipped: the manual needs python3"; finish; }
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

cat >look.py <<'PYTHON'
"""look.py CHECK HEADER PAGE: exits with what is wrong. It reads the header by rules of its own."""
import html.parser
import re
import sys

check, header, page = sys.argv[1], open(sys.argv[2], encoding="utf-8").read(), open(sys.argv[3], encoding="utf-8").read()
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.wrong, self.text, self.tags = [], [], [], [], [], {}

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key == "href":
                self.links.append(value)
        if tag in ("p", "pre", "h2", "h3", "ul") and {"p", "pre", "h2", "h3"} & set(self.open):
            self.wrong.append("<%s> in %s at %s" % (tag, self.open, self.getpos()))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append("</%s> at %s" % (tag, self.getpos()))

    def handle_data(self, data):
        if "main" in self.open:
            self.text.append(data)


r = Reader()
r.feed(page)
r.close()
text = "".join(r.text)


def all_in(what, wanted, there, least):
    missing = [w for w in wanted if w not in there]
    if missing or len(wanted) < least:
        sys.exit("%s: %d wanted, not there: %s" % (what, len(wanted), missing[:10]))


interface = header[header.index("#define L2LADV_H"):header.index("#endif /* L2LADV_H */")]
interface = re.sub(r"/\*.*?\*/", "", interface, flags=re.S)
public = [re.search(r"(\w+)\s*\($", d).group(1) for d in re.findall(r"^L2LADVDEF [^;]*?\w+\s*\(", interface, re.M)]
if check == "formed":
    if r.wrong or r.open:
        sys.exit("%s, left open: %s" % (r.wrong[:5], r.open))
    if not page.startswith("<!DOCTYPE html>") or r.tags.get("title") != 1 or r.tags.get("h1") != 1:
        sys.exit("no document with one title and one h1")
elif check == "links":
    twice = sorted(i for i in set(r.ids) if r.ids.count(i) > 1) if len(r.ids) != len(set(r.ids)) else []
    if twice:
        sys.exit("ids twice: %s" % twice[:10])
    all_in("links", [l for l in r.links], {"#" + i for i in r.ids}, 5000)
elif check == "alone":
    markup = re.sub(r"<main>.*</main>", lambda m: re.sub(r">[^<]*<", "><", m.group()), page, flags=re.S)
    found = re.findall(r"<(?:link|img|iframe|object|embed|base)\b|\bsrc\s*=|url\(|@import|fetch\(|XMLHttp|https?://", markup)
    if found:
        sys.exit("it asks for more: %s" % found[:5])
    if 'name="viewport"' not in page or "prefers-color-scheme:dark" not in page:
        sys.exit("no viewport, or no dark colours")
elif check == "chapters":
    marks = re.findall(r"^/\*  ?\d+  ?[A-Z].*>>([a-z0-9-]*[a-z0-9])", header, re.M)
    marks += re.findall(r"^/\* -- .*>>([a-z0-9-]*[a-z0-9])", header, re.M)
    all_in("marks of chapters and sections", marks, r.ids, 29)
    all_in("sections of the interface", ["s" + n for n in re.findall(r"^/\* -- (2\.\d+) ", header, re.M)], r.ids, 14)
    for title in re.findall(r"^/\* -- (.*?) -{3,} ?(?:\*/|>>.*)?$", header, re.M):
        if re.sub(r"\W", "", title).lower() not in re.sub(r"\W", "", text).lower():
            sys.exit("no section '%s'" % title)
elif check == "names":
    ids, links = set(r.ids), set(r.links)
    all_in("public functions", public, ids, 170)
    all_in("public functions in the index", ['<li><a href="#%s">' % n for n in public], page, 170)
    bodies = re.findall(r"^L2LADVDEF [^;{}]*?\b(\w+)\([^;{}]*\)\s*\{", re.sub(r"/\*.*?\*/", "", header, flags=re.S), re.M)
    all_in("their definitions", ["code." + n for n in bodies], ids, 160)
    all_in("links to them", ["#code." + n for n in bodies], links, 160)
    private = re.findall(r"^static (?:[^;{}()#\n]*?)\b(l2l__\w+)\([^;{}]*?\)\s*\{", re.sub(r"/\*.*?\*/", "", header, flags=re.S), re.M)
    all_in("private functions", private, ids, 500)
    types = re.findall(r"^\} (l2l_\w+);", header, re.M) + re.findall(r"^typedef struct (l2l_\w+) ", header, re.M)
    all_in("types", types, ids, 60)
    all_in("constants", re.findall(r"\bL2L_(?:ERROR|ATTACK|LINF|LSTM|CPU)\w*", interface), ids, 10)
elif check == "whole":  # each line of code, and the words of each comment, in the page's text
    def bare(t):
        return re.sub(r"[\s`>]+|\*/$", "", t).lower()
    begin = header.index("/* ====")
    there = {bare(re.sub(r"\s*\*/$", "", l)) for l in text.split("\n")}
    lines, missing = 0, []
    blank = lambda m: "\n" * m.group().count("\n")
    code = re.sub(r"^/\*.*?\*/$", blank, header[begin:], flags=re.S | re.M)
    code = re.sub(r"^#ifdef __clang__\n#pragma mark.*\n#endif$", blank, code, flags=re.M)
    for line in code.split("\n"):
        line = bare(re.sub(r"\s*\*/$", "", line))
        lines += line != ""
        if line and line not in there:
            missing.append(line)
    run, comments = bare(text), 0
    for comment in re.findall(r"^/\*.*?\*/$", header[begin:], re.S | re.M):
        comment = re.sub(r"={5,}|-{5,}.*|^/\* --|^/\*|\*/$|>>[a-z0-9-]+ *$", "", comment, flags=re.M)
        for paragraph in comment.split("\n\n"):
            paragraph = re.sub(r"^\s*- ", "", paragraph, flags=re.M)
            words = bare(re.sub(r"^ *([A-Z][A-Z0-9-]+ ?)+[.:]? ", "", paragraph.strip() + " "))
            comments += words != ""
            if words and words not in run and not re.match(r"\d+[a-z]", words):
                missing.append(words[:200])
    if missing or lines < 9000 or comments < 700:
        sys.exit("of %d lines and %d paragraphs are not there: %s" % (lines, comments, missing[:5]))
elif check == "size" and not 500000 < len(page.encode()) < 3000000:
    sys.exit("%d bytes" % len(page.encode()))
PYTHON
looked() { # looked NAME CHECK: of page.html, which was made of header.h
    claim "$1" "$python" look.py "$2" header.h page.html
}
every() { # every NAME: all checks
    looked "$1: every tag is closed, in order" formed
    looked "$1: every link leads somewhere, no place has two" links
    looked "$1: nothing is asked of the network" alone
    looked "$1: chapters and sections are there" chapters
    looked "$1: functions, types and constants are there, each with a link to its code" names
    looked "$1: no line of code and no word of a comment is lost" whole
    looked "$1: of a sensible size" size
}
cp "$header" header.h
claim "the page is made" "$python" "$examples/manual.py" header.h page.html
every "the header"
"$python" "$examples/manual.py" header.h again.html >output 2>&1 && cmp -s page.html again.html
verdict "the same header makes the same page" $?

# A header that has grown: a chapter, a section, functions; what HTML would take for its own.
awk '/^\/\* -- 2\.2 Random/ { print "/* -- 2.99 Trials ------ >>trials --\n   One <b>bold</b> trial & another: a < b && c > d, \"</pre>\", &amp;, `x < y`. See 2.2, l2l_vjp.\n\n   - a list\n     of one */"
        print "typedef struct l2l_trial {\n    int a; /* <i> & so on   */\n} l2l_trial;\n/* Tries. */\nL2LADVDEF bool l2l_trial_run(l2l_trial *t, const char *text, /* a & b */\n                             int (*f)(int));\n" }
    /^\/\* HISTORY/ { print "/* ====== */\n/*  16 TRIALS   >>trials-code  */\n/* ======\n\n   What <is> tried. */\n\n/* -- trying ------ */\n"
        print "L2LADVDEF bool l2l_trial_run(l2l_trial *t, const char *text,\n                             int (*f)(int))\n{\n    return t && text && \"<&>\"[0] == \x27\\\x27\x27 && f(t->a << 2) > 1;\n}\n" }
    { print }
    /^     15  Kernels/ { print "     16  Trials                                     99999  >>trials-code" }' "$header" >header.h
claim "the page of a header that has grown" "$python" "$examples/manual.py" header.h page.html
every "one that has grown"
"$python" - >output 2>&1 <<'PYTHON'
import re
page = open("page.html", encoding="utf-8").read()
for part in ('One &lt;b&gt;bold&lt;/b&gt; trial &amp; another: a &lt; b &amp;&amp; c &gt; d, "&lt;/pre&gt;", &amp;amp;, <code>x &lt; y</code>. See ',
             '<a href="#s2.2">2.2</a>', '<ul>\n<li>a list of one</li>\n</ul>', '<i>/* &lt;i&gt; &amp; so on */</i>',
             '<a class="d" id="l2l_trial_run" href="#code.l2l_trial_run">', '<a class="d" id="code.l2l_trial_run" href="#l2l_trial_run">',
             '<samp>"&lt;&amp;&gt;"</samp>', "<samp>'\\''</samp>", 'What &lt;is&gt; tried.', '<h2 id="trials-code">'):
    assert part in page, part
PYTHON
verdict "what looks like HTML is text, and new names are linked" $?

"$python" "$examples/manual.py" nowhere.h page.html >output 2>&1
[ $? -eq 1 ] && grep -q '^manual.py: nowhere.h: No such file' output
verdict "a header that is not there is named" $?
"$python" "$examples/manual.py" "$header" nowhere/page.html >output 2>&1
[ $? -eq 1 ] && grep -q '^manual.py: nowhere/page.html: No such file' output
verdict "a folder that is not there, too" $?
cp "$header" own.h
ln -s own.h other.h
for target in own.h other.h; do
    "$python" "$examples/manual.py" own.h $target >output 2>&1
    [ $? -eq 1 ] && grep -q "^manual.py: $target: is the file that is read" output && cmp -s own.h "$header"
    verdict "the header is not written over, by the name $target" $?
done
mkdir there
echo old >there/page.html
chmod 640 there/page.html
ln -s there/page.html link.html
(ulimit -f 8 && trap '' XFSZ && "$python" "$examples/manual.py" own.h there/page.html) >output 2>&1
[ $? -eq 1 ] && grep -q '^manual.py: there/page.html: ' output && [ "$(cat there/page.html)" = old ] && [ "$(ls there)" = page.html ]
verdict "a full disk leaves the old page, and nothing beside it" $?
"$python" "$examples/manual.py" own.h link.html >output 2>&1
"$python" "$examples/manual.py" own.h page.html >>output 2>&1
cmp page.html there/page.html >>output 2>&1 && [ -L link.html ] && ls -l there | grep -q '^-rw-r----- .*page.html' && [ "$(ls there)" = page.html ]
verdict "a page behind a link is replaced, with its mode, and nothing is left beside it" $?
if [ "$(id -u)" -eq 0 ]; then
    chown 1234:2345 there/page.html
    "$python" "$examples/manual.py" own.h there/page.html >output 2>&1 && [ "$(stat -c '%u %g %a' there/page.html)" = '1234 2345 640' ]
    verdict "another user's page stays that user's" $?
fi
claim "into a device" "$python" "$examples/manual.py" own.h /dev/null
printf '\377\376' >bytes.h
: >empty.h
echo '/* a.h - v1 - only a first line */' >short.h
sed '/History and licence/d' "$header" >table.h
sed '/^\/\* =* \*\/$/d' "$header" >chapters.h
for file in bytes.h empty.h short.h table.h chapters.h "$tests/run.sh"; do
    "$python" "$examples/manual.py" "$file" other.html >output 2>&1
    [ $? -eq 1 ] && grep -q "^manual.py: $file: not l2ladv.h: " output && ! grep -q Traceback output && [ ! -e other.html ]
    verdict "another file is refused: $(basename "$file")" $?
done

# In a browser, where there is one: no page is wider than the window, on a phone, a tablet and a desk.
browser=
for candidate in chromium chromium-browser google-chrome; do
    command -v $candidate >/dev/null && browser=$candidate && break
done
export HOME="$work" XDG_CONFIG_HOME="$work/config" XDG_CACHE_HOME="$work/cache" # a browser writes there
if [ "$browser" ]; then
    "$python" "$examples/manual.py" "$header" page.html >output 2>&1
    for width in 390 800 1280 1920; do
        cat >frame.html <<HTML
<!DOCTYPE html><title>?</title><iframe id=f width=$width height=800 src=page.html></iframe><p id=said></p>
<script>onload=function(){var d=f.contentDocument.documentElement,n=f.contentDocument.querySelector('nav'),
s=f.contentWindow.getComputedStyle(n);said.textContent='width '+d.clientWidth+', needs '+d.scrollWidth+', contents '+s.position+'.'}</script>
HTML
        timeout 120 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
            --user-data-dir="$work/profile" --virtual-time-budget=5000 --dump-dom "file://$work/frame.html" >output 2>/dev/null
        position=sticky
        [ $width -gt 1000 ] || position=static
        grep -q "width $width, needs $width, contents $position\\." output
        verdict "in a window of $width pixels nothing sticks out, the contents are $position" $?
    done
else
    echo "skipped: no chromium to lay the page out"
fi
finish
