const TAG = /<\|ref\|>([^]*?)<\|\/ref\|>\s*<\|det\|>[^]*?<\|\/det\|>(\n?)/g;
const CUT_OFF = /<(\|(ref\|[^]*|det\|[^]*|\/?[a-z]*\|?)?)?$/;

/** Return raw text, cut off anywhere, as it looks while it is read; `classes` says that labels are classes, not words. */
export function livingText(raw, classes) {
  return raw.replace(TAG, classes ? "" : "$1$2").replace(CUT_OFF, "");
}
