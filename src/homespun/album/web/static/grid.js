/* A grid of photos: more of it while one scrolls, far pages put away again, and selecting many to correct at once. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var grid = document.getElementById('grid');
  if (!grid) { return; }

  var body = document.body;
  var topic = grid.getAttribute('data-topic');
  var topicName = grid.getAttribute('data-topic-name');
  var loading = false;

  /* Pages: only those near the window keep their tiles, so that 50,000 photos do not fill a TV's memory. */

  var NEAR = 3; /* windows above and below */

  function pages() { return [].slice.call(grid.querySelectorAll('.page')); }

  function address(offset) {
    var url = location.pathname + location.search.replace(/([?&])(offset|part)=[^&]*/g, '$1').replace(/[?&]+$/, '').replace(/\?&+/, '?').replace(/&&+/g, '&');
    return offset ? url + (url.indexOf('?') < 0 ? '?' : '&') + 'offset=' + offset : url;
  }

  function parse(html) {
    var holder = document.createElement('div');
    holder.innerHTML = html;
    return holder;
  }

  function loadNext() {
    var next = grid.querySelector('[data-next]');
    if (!next || loading) { return; }
    loading = true;
    Homespun.part(next.getAttribute('href'), 'tiles', function (html) {
      loading = false;
      var holder = parse(html);
      if (next.parentNode && next.parentNode.parentNode) { grid.removeChild(next.parentNode); }
      while (holder.firstChild) { grid.appendChild(holder.firstChild); }
      settle(grid);
      look();
    });
  }

  function putAway(page) {
    page.style.height = page.getBoundingClientRect().height + 'px';
    page.innerHTML = '';
    page.classList.add('away');
  }

  function fetchPage(page, done) {
    Homespun.part(address(Number(page.getAttribute('data-offset'))), 'tiles', function (html) {
      var fresh = parse(html).querySelector('.page');
      page.innerHTML = fresh ? fresh.innerHTML : '';
      page.style.height = '';
      page.classList.remove('away');
      page.removeAttribute('data-coming');
      settle(page);
      if (done) { done(); }
    });
  }

  function look() {
    var height = window.innerHeight;
    pages().forEach(function (page) {
      var place = page.getBoundingClientRect();
      var near = place.bottom > -NEAR * height && place.top < (NEAR + 1) * height;
      var away = page.classList.contains('away');
      if (!near && !away && page.offsetHeight > 0 && !page.contains(document.activeElement) && !page.hasAttribute('data-coming')) { putAway(page); }
      if (near && away && !page.hasAttribute('data-coming')) {
        page.setAttribute('data-coming', '');
        fetchPage(page);
      }
    });
    var last = grid.querySelector('[data-next]');
    if (last && last.getBoundingClientRect().top < 2 * height) { loadNext(); }
  }

  var soon = null;
  function lookSoon() {
    if (soon === null) { soon = setTimeout(function () { soon = null; look(); }, 120); }
  }
  window.addEventListener('scroll', lookSoon);
  window.addEventListener('resize', lookSoon);

  /* After tiles came in: load their pictures, and mark those that are selected. */
  function settle(root) {
    Homespun.images(root);
    markSelected(root);
  }

  /* Selection */

  var selected = {};
  var selecting = false;
  var anchor = null;
  var bar = document.getElementById('selection');
  var opener = document.querySelector('[data-action="select"]');

  function ids() { return Object.keys(selected).map(Number); }

  function markSelected(root) {
    var tiles = root.querySelectorAll('.tile');
    for (var i = 0; i < tiles.length; i++) {
      var on = selected[tiles[i].getAttribute('data-photo')] === true;
      tiles[i].classList.toggle('selected', on);
      if (selecting) { tiles[i].setAttribute('aria-pressed', String(on)); } else { tiles[i].removeAttribute('aria-pressed'); }
    }
    var count = ids().length;
    document.getElementById('selection-count').textContent = count ? Homespun.say('selected', { n: count }) : Homespun.say('select_hint');
    var buttons = bar.querySelectorAll('[data-action="pick"], [data-action="not-topic"], [data-action="none"]');
    for (var j = 0; j < buttons.length; j++) { buttons[j].disabled = count === 0; }
  }

  function setSelecting(on) {
    selecting = on;
    selected = {};
    anchor = null;
    body.classList.toggle('selecting', on);
    bar.hidden = !on;
    markSelected(grid);
    if (on && !grid.contains(document.activeElement)) {
      var first = grid.querySelector('.tile');
      if (first) { Homespun.focus(first); }
    }
  }

  function toggle(tile, range) {
    var id = tile.getAttribute('data-photo');
    if (range && anchor) {
      var tiles = [].slice.call(grid.querySelectorAll('.tile'));
      var ends = [tiles.indexOf(anchor), tiles.indexOf(tile)].sort(function (a, b) { return a - b; });
      if (ends[0] >= 0) {
        tiles.slice(ends[0], ends[1] + 1).forEach(function (one) { selected[one.getAttribute('data-photo')] = true; });
      }
    } else if (selected[id]) { delete selected[id]; } else { selected[id] = true; }
    anchor = tile;
    markSelected(grid);
  }

  function leave() {
    var focused = bar.contains(document.activeElement);
    setSelecting(false);
    if (focused && opener) { Homespun.focus(opener); }
  }

  grid.addEventListener('click', function (event) {
    var tile = Homespun.closest(event.target, '.tile');
    if (!tile || !selecting) { return; }
    event.preventDefault();
    toggle(tile, event.shiftKey);
  });

  /* Holding a finger on a photo starts selecting, as on every phone. */
  var HOLD = 550;
  var holding = null, held = false;
  function letGo() { clearTimeout(holding); holding = null; }
  grid.addEventListener('touchstart', function (event) {
    var tile = Homespun.closest(event.target, '.tile');
    if (!tile || selecting) { return; }
    letGo();
    holding = setTimeout(function () {
      setSelecting(true);
      toggle(tile, false);
      held = true;
    }, HOLD);
  });
  ['touchmove', 'touchcancel'].forEach(function (kind) { grid.addEventListener(kind, letGo); });
  grid.addEventListener('touchend', function (event) {
    letGo();
    // The click that follows the finger's lifting would take the photo out again.
    if (held) { event.preventDefault(); }
    held = false;
  });
  grid.addEventListener('contextmenu', function (event) { if (selecting) { event.preventDefault(); } });

  if (opener) { opener.addEventListener('click', function () { setSelecting(!selecting); }); }

  bar.addEventListener('click', function (event) {
    var button = Homespun.closest(event.target, '[data-action]');
    if (!button) { return; }
    var action = button.getAttribute('data-action');
    if (action === 'cancel') { leave(); }
    if (action === 'all') {
      [].forEach.call(grid.querySelectorAll('.tile'), function (tile) { selected[tile.getAttribute('data-photo')] = true; });
      markSelected(grid);
    }
    if (action === 'pick' && ids().length) { Homespun.pick(ids(), leave); }
    if (action === 'not-topic' && ids().length) { Homespun.correct(ids(), 'no', topic, topicName, leave); }
    if (action === 'none' && ids().length) { Homespun.correct(ids(), 'none', null, '', leave); }
  });

  /* After a change the grid may have lost or won photos: pages near the window are fetched again, others when needed. */
  Homespun.onChange(function () {
    var focused = document.activeElement && document.activeElement.getAttribute('data-photo');
    var index = focused ? [].slice.call(grid.querySelectorAll('.tile')).indexOf(document.activeElement) : -1;
    var shown = pages().filter(function (page) { return !page.classList.contains('away'); });
    var waiting = shown.length;
    shown.forEach(function (page) {
      fetchPage(page, function () {
        waiting -= 1;
        if (waiting || !focused) { return; }
        var tiles = grid.querySelectorAll('.tile');
        var tile = grid.querySelector('.tile[data-photo="' + focused + '"]') || tiles[Math.min(index, tiles.length - 1)];
        if (tile && (document.activeElement === body || !document.activeElement)) { Homespun.focus(tile); }
      });
    });
    Homespun.part(address(0), 'count', function (text) {
      var facts = document.querySelector('.heading .facts');
      if (facts) { facts.textContent = text; }
    });
  });

  Homespun.keys.push(function (key) {
    if (key === 83 /* S */ && opener) { setSelecting(!selecting); return true; }
    return false;
  });
  Homespun.back.unshift(function () {
    if (!selecting) { return false; }
    leave();
    return true;
  });

  look();
}());
