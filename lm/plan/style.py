"""How the page of a plan looks: light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #5c5c5c; --rule: #d9d9d9;
  --range: #e6eef5; --link: #0060a0; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181a; --ink: #e8e8e8; --soft: #a8a8a8;
  --rule: #3a3d40; --range: #26323d; --link: #7cc4f5; --warn: #3d3318; } }
body { background: var(--paper); color: var(--ink); margin: 0;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
a { color: var(--link); } .note, footer { color: var(--soft); font-size: .87rem; }
footer { margin-top: 3rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; margin: .4rem 0 .8rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.number:has(table, ul) { text-align: left; white-space: normal; }
td small { display: block; color: var(--soft); white-space: nowrap; }
td:nth-child(3):not(.number) { min-width: 9rem; }
.whole { white-space: nowrap; } h3 { font-size: 1rem; margin: 1rem 0 0; }
.warnings { background: var(--warn); padding: .6rem 1rem .6rem 2rem; border-radius: .3rem; }
details { margin: .3rem 0; } summary { cursor: pointer; }
details:target { background: var(--range); padding: .3rem .5rem; border-radius: .3rem; }
details:target::details-content { content-visibility: visible; block-size: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem;
  margin: .4rem 1.1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; min-width: 640px; height: auto; margin: .4rem 0;
  font-family: inherit; }
svg text { fill: var(--ink); }
.rule { stroke: var(--rule); stroke-width: 1; }
.part, .key, .point { stroke: var(--ink); stroke-width: .6; }
.point { stroke-width: 1.2; }
.limit { stroke: var(--ink); stroke-width: 1.8; stroke-dasharray: 5 3; }
.band { stroke: var(--ink); stroke-width: 1.4; }
.whisker { stroke: var(--soft); stroke-width: 1; opacity: .55; }
.front { fill: none; stroke: var(--ink); stroke-width: 1.4; opacity: .7; }
.curve { fill: none; stroke-width: 2.2; }
.range { fill: var(--range); }
.dot, .faint { stroke: var(--ink); stroke-width: 1.2; }
.faint { fill-opacity: 0; }
.label { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
"""
