/* A photo's page: next and previous without loading a page, corrections, full view. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var holder = document.getElementById('viewer');
  var LEFT = 37, RIGHT = 39, DOWN = 40, ENTER = 13, F = 70, N = 78, T = 84;
  var going = false;

  function viewer() { return holder.querySelector('.viewer'); }
  function photoId() { return Number(viewer().getAttribute('data-photo')); }
  function stage() { return document.getElementById('stage'); }

  function settle() {
    try { sessionStorage.setItem('last-photo', String(photoId())); } catch (ignored) { /* storage is switched off */ }
    ['data-next-picture', 'data-previous-picture'].forEach(function (name) {
      var url = viewer().getAttribute(name);
      if (url) { new Image().src = url; }
    });
  }

  function go(url) {
    if (!url || going) { return; }
    going = true;
    Homespun.part(url, 'viewer', function (html) {
      going = false;
      holder.innerHTML = html;
      // Replaced, not pushed: Back leads to the grid, however many photos one has looked at.
      history.replaceState(null, '', url);
      document.title = viewer().getAttribute('data-title');
      stage().focus({ preventScroll: true });
      settle();
    });
  }

  function previous() { go(viewer().getAttribute('data-previous')); }
  function next() { go(viewer().getAttribute('data-next')); }

  /* What is known of the photo may have changed: fetch it again, keep the picture and the place of the focus. */
  function refresh() {
    var focused = document.activeElement;
    var topic = focused && focused.getAttribute('data-topic');
    var action = focused && focused.getAttribute('data-action');
    var inside = focused && Homespun.closest(focused, '.panel');
    Homespun.part(location.pathname + location.search, 'viewer', function (html) {
      var fresh = document.createElement('div');
      fresh.innerHTML = html;
      var panel = viewer().querySelector('.panel');
      panel.innerHTML = fresh.querySelector('.panel').innerHTML;
      if (!inside) { return; }
      var same = topic ? panel.querySelector('button[data-topic="' + topic.replace(/["\\]/g, '\\$&') + '"]')
        : action && panel.querySelector('[data-action="' + action + '"]');
      (same || panel.querySelector('button')).focus({ preventScroll: true });
    });
  }

  function setFull(on) { document.body.classList.toggle('full', on); }

  holder.addEventListener('click', function (event) {
    var link = Homespun.closest(event.target, 'a.previous, a.next');
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      go(link.getAttribute('href'));
      return;
    }
    var button = Homespun.closest(event.target, '[data-action]');
    if (!button) { return; }
    var action = button.getAttribute('data-action');
    if (action === 'full') { setFull(!document.body.classList.contains('full')); }
    if (action === 'pick') { Homespun.pick([photoId()], null); }
    if (action === 'yes' || action === 'no') {
      Homespun.correct([photoId()], action, button.getAttribute('data-topic'), button.getAttribute('data-name'), null);
    }
    if (action === 'none') { Homespun.correct([photoId()], 'none', null, '', null); }
  });

  Homespun.onChange(refresh);

  Homespun.keys.push(function (key) {
    var onStage = !document.activeElement || document.activeElement === document.body || document.activeElement === stage();
    if (key === F) { setFull(!document.body.classList.contains('full')); return true; }
    if (key === T) { Homespun.pick([photoId()], null); return true; }
    if (key === N) { Homespun.correct([photoId()], 'none', null, '', null); return true; }
    if (!onStage) { return false; }
    if (key === LEFT) { previous(); return true; }
    if (key === RIGHT) { next(); return true; }
    if (key === DOWN || key === ENTER) {
      setFull(false);
      var first = viewer().querySelector('.panel button');
      if (first) { Homespun.focus(first); }
      return true;
    }
    return false;
  });

  Homespun.back.push(function () {
    if (document.body.classList.contains('full')) { setFull(false); return true; }
    if (Homespun.closest(document.activeElement, '.panel')) { stage().focus({ preventScroll: true }); return true; }
    location.href = viewer().getAttribute('data-back');
    return true;
  });

  /* Swiping */
  var from = null;
  holder.addEventListener('touchstart', function (event) {
    from = event.touches.length === 1 && Homespun.closest(event.target, '.stage') ? event.touches[0] : null;
  });
  holder.addEventListener('touchend', function (event) {
    if (!from) { return; }
    var to = event.changedTouches[0];
    var across = to.clientX - from.clientX, down = to.clientY - from.clientY;
    from = null;
    if (Math.abs(across) > 50 && Math.abs(across) > 2 * Math.abs(down)) { if (across > 0) { previous(); } else { next(); } }
  });

  stage().focus({ preventScroll: true });
  settle();
}());
