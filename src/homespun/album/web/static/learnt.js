/* What was learnt: the switch of automatic refining, and the way back to the network before. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var main = document.getElementById('main');

  function show(action) {
    return function () {
      Homespun.refreshMain(function () {
        var button = main.querySelector('[data-action="' + action + '"]') || main.querySelector('[data-action="automatic"]');
        button.focus({ preventScroll: true });
      });
    };
  }

  main.addEventListener('click', function (event) {
    var button = Homespun.closest(event.target, '[data-action="automatic"], [data-action="rollback"]');
    if (!button) { return; }
    var action = button.getAttribute('data-action');
    button.disabled = true;
    function failed(detail) { button.disabled = false; Homespun.complain(detail); }
    if (action === 'automatic') {
      Homespun.call('POST', '/api/v1/refining/automatic', { on: button.getAttribute('aria-checked') !== 'true' }, show(action), failed);
    } else {
      Homespun.call('POST', '/api/v1/refining/rollback', {}, show(action), failed);
    }
  });
}());
