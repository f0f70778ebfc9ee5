"""The frame of a report: its style, for light and dark screens, and the script that reads charts.

The page is complete without the script, and neither asks for anything beyond the file.
"""

import html
from typing import Any

# Longer texts are cut, and say so.
LONGEST_TEXT = 300

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1c2330;--dim:#5d6778;--line:#e1e5ea;
--heat:47,111,222;--s0:#2f6fde;--s1:#d9691b;--s2:#1f9254;--s3:#8a4fd3;--s4:#cf3346;--s5:#0f8a9d;
--s6:#a87a00;--s7:#c2419a}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1b212b;--text:#e5e9f0;--dim:#99a4b5;
--line:#303947;--heat:86,146,255;--s0:#6fa3ff;--s1:#ff9a52;--s2:#4fca86;--s3:#bb90ff;--s4:#ff7684;
--s5:#45c9dd;--s6:#e2b53c;--s7:#f083c9}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);font:15px/1.45 system-ui,-apple-system,
"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1280px;margin:0 auto;padding:20px clamp(10px,2.5vw,28px) 48px}
h1{font-size:1.5rem;margin:0 0 2px;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:28px 0 10px}
p{margin:0 0 8px}
.dim,.note,.empty{color:var(--dim)}
.note{font-size:.8rem;margin:8px 0 0}
.empty{padding:40px 0;text-align:center}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,170px),1fr));gap:12px;
margin-top:16px}
.tiles div,.chart,.box{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tiles div{padding:10px 14px;overflow-wrap:anywhere}
.tiles span,.tiles small{display:block;color:var(--dim);font-size:.8rem}
.tiles b{font-size:1.15rem;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:14px}
.chart{margin:0;padding:12px 14px;min-width:0}
figcaption{font-weight:600;display:flex;justify-content:space-between;gap:10px;
overflow-wrap:anywhere}
.at{font-weight:400;color:var(--dim);font-size:.85rem;white-space:nowrap}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:0 16px;margin:2px 0 10px;padding:0;
font-size:.85rem;color:var(--dim);overflow-wrap:anywhere}
.legend b{color:var(--text);font-weight:600;font-variant-numeric:tabular-nums}
.legend i{display:inline-block;width:16px;height:0;border-top:3px solid;margin-right:6px;
vertical-align:middle}
.legend .dashed{border-top-style:dashed}
.plot{display:grid;grid-template-columns:calc(var(--y)*.78) minmax(0,1fr);padding-right:16px;
font-size:12px;line-height:1;color:var(--dim);font-variant-numeric:tabular-nums}
.area{position:relative;height:190px;grid-column:2;touch-action:pan-y}
.y{position:relative}.y span{position:absolute;right:6px;transform:translateY(-50%);
white-space:nowrap}
.x{position:relative;grid-column:2;height:20px}.x span{position:absolute;top:6px;
transform:translateX(-50%);white-space:nowrap}
.unit{grid-column:2;text-align:center;margin-top:2px}
svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
path{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round;
vector-effect:non-scaling-stroke}
path.raw{stroke-width:1;opacity:.3}path.dot{stroke-width:6}
path.dashed{stroke-dasharray:6 5}path.dot.dashed{stroke-dasharray:none}
path.grid{stroke:var(--line);stroke-width:1}
.s0{color:var(--s0)}.s1{color:var(--s1)}.s2{color:var(--s2)}.s3{color:var(--s3)}
.s4{color:var(--s4)}.s5{color:var(--s5)}.s6{color:var(--s6)}.s7{color:var(--s7)}
.cursor{position:absolute;top:0;bottom:0;width:0;border-left:1px solid var(--dim);display:none}
.box{padding:6px 14px;overflow-x:auto;position:relative}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
.box>table{min-width:min(100%,420px)}
th,td{padding:5px 14px 5px 0;text-align:left;border-bottom:1px solid var(--line)}
tr:last-child>td,tr:last-child>th{border-bottom:0}
th{font-weight:600}thead th{color:var(--dim);font-weight:500;white-space:nowrap}
.number{text-align:right;white-space:nowrap}
td,tbody th{overflow-wrap:anywhere}
.wide td,.wide tbody th{white-space:nowrap}
details{margin:0 0 10px}summary{cursor:pointer;font-weight:600;padding:4px 0}
.config{width:100%;table-layout:fixed}.config th{width:38%;font-weight:400;color:var(--dim)}
.config td{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.82rem}
.box>.confusion{min-width:0;border-collapse:separate;border-spacing:1px;font-size:.78rem;
margin:6px 0}
.confusion td{border:0;padding:0 3px;min-width:26px;height:26px;text-align:center;
background:rgba(var(--heat),var(--a,0));white-space:nowrap}
.confusion td.hot{color:#fff}
@media(prefers-color-scheme:dark){.confusion td.hot{color:#0b1220}}
.confusion th{border:0;padding:0 8px 0 0;font-weight:400;white-space:nowrap;max-width:11rem;
overflow:hidden;text-overflow:ellipsis;text-align:right}
.confusion tbody th{position:sticky;left:-14px;padding-left:14px;background:var(--card)}
.confusion thead th{padding:0 0 6px;text-align:left;vertical-align:bottom}
.confusion thead span{writing-mode:vertical-rl;transform:rotate(180deg);display:inline-block;
max-height:9rem;overflow:hidden;text-overflow:ellipsis;color:var(--text)}
.confusion .diagonal{outline:1px solid var(--dim);outline-offset:-1px}
"""

# Under the pointer, the legend reads the nearest step's values instead of the last ones.
SCRIPT = """
for (const chart of document.querySelectorAll(".chart")) {
  const source = chart.querySelector("script");
  if (!source) continue;
  const data = JSON.parse(source.textContent), area = chart.querySelector(".area");
  const cursor = area.querySelector(".cursor"), at = chart.querySelector(".at");
  const cells = [...chart.querySelectorAll(".legend b")], last = cells.map(c => c.textContent);
  const [low, high] = data.x;
  const nearest = (steps, wanted) => {
    let a = 0, b = steps.length - 1;
    while (a < b) { const m = (a + b) >> 1; if (steps[m] < wanted) a = m + 1; else b = m; }
    return a && wanted - steps[a - 1] < steps[a] - wanted ? a - 1 : a;
  };
  const show = event => {
    const box = area.getBoundingClientRect();
    const wanted = low + (high - low) * (event.clientX - box.left) / box.width;
    const found = data.lines.map(line => nearest(line[0], wanted));
    const steps = data.lines.map((line, i) => line[0][found[i]]);
    const step = steps.reduce((x, y) => Math.abs(x - wanted) <= Math.abs(y - wanted) ? x : y);
    cursor.style.display = "block";
    cursor.style.left = 100 * (step - low) / (high - low) + "%";
    at.textContent = "step " + step.toLocaleString("en");
    cells.forEach((cell, i) => {
      const value = data.lines[i][1][found[i]], small = value && Math.abs(value) < 1e-3;
      cell.textContent = small ? value.toExponential(3) : Number(value.toPrecision(4));
      /* Read at another step, the nearest that this line has. */
      cell.style.opacity = steps[i] === step ? 1 : 0.6;
    });
  };
  const hide = () => {
    cursor.style.display = "none";
    at.textContent = "";
    cells.forEach((cell, i) => { cell.textContent = last[i]; cell.style.opacity = 1; });
  };
  area.addEventListener("pointermove", show);
  area.addEventListener("pointerdown", show);
  area.addEventListener("pointerleave", hide);
}
"""


def escape(value: Any, limit: int = LONGEST_TEXT) -> str:
    text = str(value)
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text):,} characters)"
    # Neither HTML nor SVG can hold these, escaped or not.
    text = "".join("\ufffd" if ord(c) < 32 and c not in "\t\n" else c for c in text)
    return html.escape(text)


def page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )
