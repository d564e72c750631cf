// Numbers, sizes and times as people read them. A number and its unit stay on one line.

const NUMBER = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function count(value) {
  return isNumber(value) ? NUMBER.format(value) : "–";
}

/** `1 row`, `2 rows`. */
function many(value, one, more = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : more}`;
}

function bytes(value) {
  if (!isNumber(value)) return "–";
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)}\u00a0${UNITS[unit]}`;
}

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole}\u00a0s`;
  if (whole < 7200) return `${Math.floor(whole / 60)}\u00a0min ${whole % 60}\u00a0s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)}\u00a0h ${Math.floor((whole % 3600) / 60)}\u00a0min`;
  return `${NUMBER.format(Math.floor(whole / 86400))}\u00a0days`;
}

function milliseconds(micros) {
  if (!isNumber(micros)) return "–";
  if (micros < 1e4) return `${(micros / 1e3).toFixed(1)}\u00a0ms`;
  if (micros < 1e6) return `${Math.round(micros / 1e3)}\u00a0ms`;
  return `${(micros / 1e6).toFixed(1)}\u00a0s`;
}

function perSecond(value) {
  if (!isNumber(value)) return "–";
  return value > 0 && value < 10 ? value.toFixed(1) : count(Math.round(value));
}

function dollars(value) {
  if (!isNumber(value)) return "–";
  return `$${value >= 0.01 || value === 0 ? value.toFixed(2) : value.toPrecision(1)}`;
}

/** A time of today by the clock, an older one with its day. */
function time(date) {
  if (Number.isNaN(date.getTime())) return "–";
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? CLOCK.format(date) : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}

/** `a`, `a and b`, `a, b and 3 others`. */
function names(list, shown = 3) {
  if (list.length <= 1) return list[0] ?? "";
  if (list.length > shown) return `${list.slice(0, shown - 1).join(", ")} and ${list.length - shown + 1} others`;
  return `${list.slice(0, -1).join(", ")} and ${list.at(-1)}`;
}
