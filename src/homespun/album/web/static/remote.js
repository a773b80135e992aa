/* Moves the focus with arrows, as a TV remote does; OK (Enter) presses, Back (Escape) goes up one level.
   Pages add keys of their own by pushing to Homespun.keys; the first that returns true ends the search. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var LEFT = 37, UP = 38, RIGHT = 39, DOWN = 40, ENTER = 13, ESCAPE = 27;
  var BACK = [ESCAPE, 461 /* webOS */, 10009 /* Tizen */];
  var KEY_U = 85, BLUE = 406, SLASH = 191;
  var FOCUSABLE = 'a[href], button, input, select, [tabindex="0"]';
  /* Leaving the line that one is on costs this many times its distance. */
  var ASIDE = 3;

  Homespun.keys = [];
  Homespun.back = [];

  function visible(node) {
    return node.offsetWidth > 0 && node.getClientRects().length > 0;
  }

  function reachable(scope, within) {
    var found = [];
    var nodes = scope.querySelectorAll(FOCUSABLE);
    for (var i = 0; i < nodes.length; i++) {
      var node = nodes[i];
      if (node.disabled || node.type === 'hidden' || node.tabIndex < 0) { continue; }
      if (node.getAttribute('data-nav') === 'off' || !visible(node)) { continue; }
      if (!within && Homespun.closest(node, '#toast, #selection')) { continue; }
      found.push(node);
    }
    return found;
  }

  function apart(fromStart, fromEnd, start, end) {
    return Math.max(0, start - fromEnd, fromStart - end);
  }

  /* How far `to` is from `from` in a direction; null if it does not lie there. Left and right stay on the line. */
  function distance(from, to, direction, anyLine) {
    var gap, aside, centres;
    if (direction === LEFT || direction === RIGHT) {
      gap = direction === RIGHT ? to.left - from.right : from.left - to.right;
      aside = apart(from.top, from.bottom, to.top, to.bottom);
      centres = Math.abs(from.top + from.bottom - to.top - to.bottom) / 2;
      if (aside > 0 && (gap < 0 || !anyLine)) { return null; }
    } else {
      gap = direction === DOWN ? to.top - from.bottom : from.top - to.bottom;
      aside = apart(from.left, from.right, to.left, to.right);
      centres = Math.abs(from.left + from.right - to.left - to.right) / 2;
    }
    // A few pixels of overlap (shadows, enlarged focus) are still "beside".
    return gap < -12 ? null : Math.max(0, gap) + ASIDE * aside + centres / 10;
  }

  function nearest(from, nodes, direction, anyLine) {
    var best = null, least = Infinity;
    var place = from.getBoundingClientRect();
    nodes.forEach(function (node) {
      if (node === from) { return; }
      var far = distance(place, node.getBoundingClientRect(), direction, anyLine);
      if (far !== null && far < least) { least = far; best = node; }
    });
    return best;
  }

  function reveal(node) {
    var reel = Homespun.closest(node, '.reel');
    var place = node.getBoundingClientRect();
    if (reel) {
      var shown = reel.getBoundingClientRect();
      var edge = parseFloat(window.getComputedStyle(reel).paddingLeft) || 0;
      if (place.left < shown.left + edge) { reel.scrollLeft += place.left - shown.left - edge; }
      if (place.right > shown.right - edge) { reel.scrollLeft += place.right - shown.right + edge; }
    }
    if (Homespun.closest(node, '.dialog, #selection, #toast')) { if (node.scrollIntoView) { node.scrollIntoView(false); } return; }
    var height = window.innerHeight;
    if (place.top < height * 0.18) { window.scrollBy(0, place.top - height * 0.3); }
    else if (place.bottom > height * 0.85) { window.scrollBy(0, Math.min(place.top - height * 0.3, place.bottom - height * 0.7)); }
  }

  function focus(node) {
    node.focus({ preventScroll: true });
    reveal(node);
  }

  function start() {
    return document.querySelector('main [data-autofocus]') || document.querySelector('.grid .tile') || reachable(document.getElementById('main'))[0] ||
      reachable(document)[0];
  }

  Homespun.focusMain = function () { var node = start(); if (node) { focus(node); } };
  Homespun.focus = focus;

  function move(direction) {
    var dialog = Homespun.currentDialog();
    var scope = dialog || document;
    var from = document.activeElement;
    if (!from || from === document.body || !scope.contains(from)) {
      if (dialog) { focus(reachable(dialog)[0]); } else { Homespun.focusMain(); }
      return;
    }
    var overlays = [document.getElementById('selection'), document.getElementById('toast')].filter(function (one) {
      return one && !one.hidden;
    });
    var inside = overlays.filter(function (one) { return one.contains(from); })[0];
    var sideways = direction === LEFT || direction === RIGHT;
    var row = sideways && Homespun.closest(from, '[data-row]');
    var next = nearest(from, reachable(row || inside || scope, inside), direction);
    // What lies over the page is reached where the page itself has nothing more, and left again into it.
    if (!next && inside && (direction === LEFT || direction === UP)) { next = nearest(from, reachable(document), direction, true) || start(); }
    else if (!next && !inside && !dialog && overlays.length) { next = reachable(overlays[0], true)[0]; }
    if (next) { focus(next); }
  }

  function typing(node) {
    return node && (node.tagName === 'INPUT' || node.tagName === 'SELECT');
  }

  /* Inside a text field, left and right belong to the text until its end is reached. */
  function fieldNeeds(node, key) {
    if (!typing(node) || (key !== LEFT && key !== RIGHT)) { return false; }
    if (node.type !== 'text' && node.type !== 'search') { return true; }
    if (node.selectionStart !== node.selectionEnd) { return true; }
    return key === LEFT ? node.selectionStart > 0 : node.selectionStart < node.value.length;
  }

  function goBack() {
    if (Homespun.closeDialog()) { return true; }
    var toast = document.getElementById('toast');
    if (!toast.hidden && toast.contains(document.activeElement)) { Homespun.hideToast(); return true; }
    for (var i = 0; i < Homespun.back.length; i++) {
      if (Homespun.back[i]()) { return true; }
    }
    if (location.pathname !== '/') { location.href = '/'; return true; }
    return false;
  }

  /* A refinement stands still while somebody is here (docs/refining.md); moving the focus asks the server for nothing. */
  var told = 0;
  function tellWeAreHere() {
    var now = new Date().getTime();
    if (now - told < 5000) { return; }
    told = now;
    Homespun.call('POST', '/api/v1/refining/here', {}, function () {}, function () {});
  }

  document.addEventListener('keydown', function (event) {
    var key = event.keyCode;
    tellWeAreHere();
    document.body.classList.remove('by-pointer');
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || key === 229) { return; }
    var node = document.activeElement;
    var handled = false;
    if (BACK.indexOf(key) >= 0) {
      handled = goBack();
    } else {
      if (!typing(node) && !Homespun.currentDialog()) {
        handled = Homespun.keys.some(function (page) { return page(key, event); });
        if (!handled && (key === KEY_U || key === BLUE)) { handled = Homespun.undoShown(); }
        if (!handled && key === SLASH && !event.shiftKey) { location.href = '/search'; handled = true; }
      }
      if (!handled && key >= LEFT && key <= DOWN && !fieldNeeds(node, key) && !event.shiftKey) {
        move(key);
        handled = true;
      }
      if (!handled && key === ENTER && node && node.tabIndex === 0 && !/^(A|BUTTON|INPUT|SELECT)$/.test(node.tagName)) {
        node.click();
        handled = true;
      }
    }
    if (handled) { event.preventDefault(); }
  });

  /* Rings are for remotes and keyboards; a mouse or a finger knows where it is. */
  ['mousedown', 'touchstart'].forEach(function (kind) {
    document.addEventListener(kind, function () { document.body.classList.add('by-pointer'); }, true);
  });

  if ('ontouchstart' in window && window.innerWidth < 900) { document.body.classList.add('by-pointer'); }

  /* Coming back from a photo, its tile is where one was. */
  function restore() {
    var last = null;
    try {
      last = sessionStorage.getItem('last-photo');
      sessionStorage.removeItem('last-photo');
    } catch (ignored) { /* storage is switched off */ }
    var tile = last && document.querySelector('.tile[data-photo="' + Number(last) + '"]');
    var first = tile || document.querySelector('main [data-autofocus]') || document.querySelector('.grid .tile');
    if (!first) { return; }
    if (tile) { focus(first); } else { first.focus({ preventScroll: true }); }
  }
  if (!document.querySelector('.viewer')) { restore(); }
}());
