// A small chart of the last two minutes. It is scaled to its own highest value, but never so far that the noise of an
// idle server looks like something.

const POINTS_MAX = 120;
const WIDTH = 240;
const HEIGHT = 40;
const SCALE_MIN_BYTES = 64 * 1024;

class Sparkline {
  constructor() {
    this.values = [];
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.dot = svg("circle", { class: "dot", r: 2.5 });
    this.element = svg("svg", {
      class: "sparkline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    }, this.area, this.line);
  }

  add(value) {
    if (!isNumber(value)) return;
    this.values.push(value);
    if (this.values.length > POINTS_MAX) this.values.shift();
    const most = Math.max(...this.values);
    const scale = Math.max(most, SCALE_MIN_BYTES);
    const step = WIDTH / (POINTS_MAX - 1);
    const start = WIDTH - (this.values.length - 1) * step;
    const y = (point) => (HEIGHT - 2 - (point / scale) * (HEIGHT - 4)).toFixed(1);
    const points = this.values.map((point, index) => `${(start + index * step).toFixed(1)} ${y(point)}`);
    // One single point is drawn as a dash.
    if (points.length === 1) points.unshift(`${(start - step).toFixed(1)} ${y(value)}`);
    const from = points[0].split(" ")[0];
    setAttribute(this.line, "d", `M${points.join("L")}`);
    setAttribute(this.area, "d", `M${from} ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z`);
    setAttribute(this.element, "aria-label",
      `Bytes behind over the last ${duration(this.values.length)}: now ${bytes(value)}, at most ${bytes(most)}`);
  }
}
