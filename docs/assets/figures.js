// Draws the figures of a page when they come into view. Everything is read from the site's own folder, so that a page
// opened from a disk works: scripts are loaded by <script>, not fetched.
(function () {
  const base = new URL(".", document.currentScript.src);
  const waiting = {};
  let plotly = null;

  function load(address) {
    return new Promise(function (done, failed) {
      const script = document.createElement("script");
      script.src = address;
      script.onload = done;
      script.onerror = function () { failed(new Error("could not load " + address)); };
      document.head.appendChild(script);
    });
  }

  window.latentgeoFigure = function (name, figure) { waiting[name] = figure; };

  function fit(place) {
    const inner = place.firstElementChild;
    if (inner) inner.style.transform = "scale(" + place.clientWidth / Number(place.dataset.width) + ")";
  }

  async function draw(place) {
    plotly = plotly || load(new URL("plotly.min.js", base).href);
    await plotly;
    await load(new URL(place.dataset.src, document.baseURI).href);
    const figure = waiting[place.dataset.figure];
    const inner = document.createElement("div");
    inner.style.width = place.dataset.width + "px";
    inner.style.height = place.dataset.height + "px";
    place.appendChild(inner);
    const layout = Object.assign({}, figure.layout, {
      width: Number(place.dataset.width), height: Number(place.dataset.height),
    });
    await window.Plotly.newPlot(inner, figure.data, layout, { displaylogo: false, scrollZoom: false });
    fit(place);
  }

  document.addEventListener("DOMContentLoaded", function () {
    const places = document.querySelectorAll(".lg-figure");
    const seen = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        seen.unobserve(entry.target);
        draw(entry.target).catch(function (error) { entry.target.textContent = error.message; });
      });
    }, { rootMargin: "800px" });
    places.forEach(function (place) { seen.observe(place); });
    window.addEventListener("resize", function () { places.forEach(fit); });
  });
})();
