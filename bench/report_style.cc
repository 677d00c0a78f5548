#include "bench/report_style.h"

namespace engine::bench {
namespace {

constexpr std::string_view kStyle = R"css(
:root{--paper:#f4f6f8;--card:#fff;--ink:#1f2328;--soft:#57606a;--line:#d8dee4;
--actual:#2563eb;--ceiling:#d8dee4;--target:#d9480f;--peer:#0d9488;--warn:#fff4ce;
color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--paper:#0b0f14;--card:#141a21;--ink:#e6edf3;
--soft:#9ba5b0;
--line:#2b333c;--actual:#6ea0ff;--ceiling:#313a44;--target:#ff9a62;--peer:#4fd6c6;--warn:#4a3a08}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.45;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-text-size-adjust:100%;text-size-adjust:100%}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .25rem;overflow-wrap:anywhere}
h3{font-size:.9rem;font-weight:600;color:var(--soft);margin:1.2rem 0 .5rem;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;
padding:1.1rem 1.1rem 1rem;margin:1rem 0}
.summary{margin:0 0 .6rem;color:var(--soft);font-size:.9rem}
.warning{background:var(--warn);border:1px solid var(--line);border-radius:.4rem;
padding:.6rem .8rem;margin:0 0 1rem}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.7rem 1.2rem;
margin:0 0 1rem}
dt{font-size:.75rem;color:var(--soft)}
dd{margin:0;font-size:.95rem;overflow-wrap:anywhere}
.command{background:var(--card);border:1px solid var(--line);border-radius:.4rem;
padding:.6rem .8rem;
margin:0 0 1rem;font-size:.85rem;white-space:pre-wrap;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.6rem 0;font-size:.85rem;
color:var(--soft)}
.legend span{display:inline-flex;align-items:center;gap:.45rem}
.swatch{display:inline-block;width:1rem;height:.75rem;border-radius:2px}
.swatch.target,.swatch.peer{width:3px;height:1rem}
.dot{width:.75rem;height:.75rem}
.swatch.actual,.track .actual{background:var(--actual)}
.swatch.ceiling,.track .ceiling{background:var(--ceiling)}
.swatch.target,.mark.target{background:var(--target)}
.swatch.peer,.mark.peer{background:var(--peer)}
.bar{display:grid;grid-template-columns:minmax(0,16rem) minmax(0,1fr) 8.2rem;gap:.05rem .8rem;
align-items:center;padding:.28rem 0}
.label{font-size:.88rem;overflow-wrap:anywhere}
.value{white-space:nowrap;font-size:.92rem;font-weight:600;text-align:right;
font-variant-numeric:tabular-nums}
.notes{grid-column:2/4;font-size:.78rem;color:var(--soft);display:flex;flex-wrap:wrap;gap:0 .9rem;
font-variant-numeric:tabular-nums}
.more{color:var(--ink)}
.of-target::before,.of-peer::before{content:"";display:inline-block;width:3px;height:.7em;
margin-right:.35em}
.of-target::before{background:var(--target)}
.of-peer::before{background:var(--peer)}
.track{position:relative;height:1rem}
.track .ceiling,.track .actual{position:absolute;left:0;top:0;height:100%;border-radius:2px}
.track .actual{top:20%;height:60%}
.mark{position:absolute;top:-2px;bottom:-2px;width:3px;margin-left:-1.5px;border-radius:1px;
box-shadow:0 0 0 1px var(--card)}
figure{margin:.5rem 0 0}
figure>.picture{display:block;width:100%;max-width:46rem;height:auto;margin:0 auto}
figure>.legend.picture{display:flex}
figcaption{font-size:.82rem;color:var(--soft)}
details{margin:.8rem 0 0}
summary{cursor:pointer;font-size:.88rem;color:var(--soft)}
.scroll{overflow-x:auto;margin-top:.5rem}
table{border-collapse:collapse;font-size:.8rem;white-space:nowrap;
font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left}
th{color:var(--soft);font-weight:600}
footer{color:var(--soft);font-size:.82rem;padding:0 .2rem}
footer ul{padding-left:1.1rem}
@media (max-width:40rem){
main{padding:1rem .6rem 2rem}
section{padding:.9rem .8rem}
dl{grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
.bar{grid-template-columns:minmax(0,1fr) auto;padding:.45rem 0}
.track{grid-column:1/3;grid-row:2}
.notes{grid-column:1/3}
.picture text{font-size:19px}
}
@media print{body{background:none}section{break-inside:avoid}}
)css";

}  // namespace

std::string_view page_style() { return kStyle; }

}  // namespace engine::bench
