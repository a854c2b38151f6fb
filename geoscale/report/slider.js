"use strict";
(function () {
  var box = document.getElementById("compare");
  var range = document.getElementById("compare-range");
  if (!box || !range) { return; }
  function show() {
    box.style.setProperty("--cut", range.value + "%");
    range.setAttribute("aria-valuetext", range.value + " % of the width shows the date before");
  }
  function drag(event) {
    var area = box.getBoundingClientRect();
    range.value = Math.max(0, Math.min(100, 100 * (event.clientX - area.left) / area.width));
    show();
  }
  box.addEventListener("pointerdown", function (event) {
    event.preventDefault();
    box.setPointerCapture(event.pointerId);
    drag(event);
  });
  box.addEventListener("pointermove", function (event) {
    if (box.hasPointerCapture(event.pointerId)) { drag(event); }
  });
  range.addEventListener("input", show);
  box.classList.add("on");
  range.parentElement.hidden = false;
  show();
})();
